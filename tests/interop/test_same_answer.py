"""The way an answer is made does not show in it.

One table of requests is sent to a colocated worker, to a decode worker alone, and to routers over
a pair on each transport: first cold, then streamed on a warm prefix, then all at once.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from steelyard_runtime.testing.http_answers import (
    CHAT,
    COMPLETIONS,
    Json,
    ask,
    logprob_numbers,
    without_logprobs,
)
from steelyard_runtime.testing.processes import Router
from steelyard_runtime.testing.services import settle

pytestmark = pytest.mark.model

MODEL = "smollm2"
KEY = "sk-interop"
STORY = (
    "The lighthouse on the cape had been dark for eleven years when the twins found the key. "
    "It was hidden under a loose stone, wrapped in oilcloth together with a letter that nobody "
    "could read. They climbed the stairs, one hundred and twelve of them, opened the rusty door "
    "of the lamp, and looked down at the boats that had been waiting there since the morning."
)
SEEDED = {"temperature": 0.9, "seed": 41, "max_tokens": 8}
GREEDY = {"temperature": 0, "max_tokens": 8}
SCHEMA = {
    "type": "object",
    "properties": {"lit": {"type": "boolean"}},
    "required": ["lit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "light_lamp", "parameters": SCHEMA}}


def completion(**fields: Any) -> tuple[str, Json]:
    """Return a completion of the story."""
    return COMPLETIONS, {"prompt": STORY, **fields}  # fields may replace the prompt


def chat(**fields: Any) -> tuple[str, Json]:
    """Return a chat about the story."""
    return CHAT, {"messages": [{"role": "user", "content": f"{STORY} Go on."}], **fields}


REQUESTS: dict[str, tuple[str, Json]] = {
    "greedy": completion(**GREEDY),
    "json schema": chat(
        temperature=0.7,
        seed=2,
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "l", "schema": SCHEMA}},
    ),
    "stop": completion(**GREEDY | {"max_tokens": 16}, stop=[" was", "\n", ". "]),
    "logprobs": completion(**GREEDY, logprobs=3),
    "chat logprobs": chat(**SEEDED, logprobs=True, top_logprobs=2),
    "two choices": chat(**SEEDED, n=2),
    "penalties": completion(
        **GREEDY,
        presence_penalty=0.8,
        frequency_penalty=0.6,
        repetition_penalty=1.2,
        logit_bias={"253": -4, "28": 2.5},
    ),
    "tools": chat(**GREEDY | {"max_tokens": 64}, tools=[TOOL], tool_choice="required"),
    "echo": completion(**GREEDY, echo=True),
    "token ids": completion(
        **SEEDED,
        prompt=[(37 * i) % 4000 + 400 for i in range(90)],
        ignore_eos=True,
        top_p=0.9,
        top_k=40,
        min_p=0.01,
    ),
}
AT_ONCE = tuple(name for name in REQUESTS if name not in ("echo", "tools"))
WAYS = ("colocated", "decode alone", "tcp", "nixl")

Answers = dict[str, dict[tuple[str, str], Json]]  # by way; then by round and request


def ask_all(way: str, url: str) -> dict[tuple[str, str], Json]:
    """Send the table in three rounds."""

    def send(name: str, salt: str, **fields: Any) -> Json:
        path, body = REQUESTS[name]
        # Ids of tool calls are made of the request's id, so equal ids must give equal calls.
        headers = {"X-Request-Id": name.replace(" ", "-")}
        # The salt keeps prefixes of other ways and rounds out of the cache.
        body = {"model": MODEL, **body, **fields, "cache_salt": f"{way}, {name}, {salt}"}
        return ask(url, path, body, KEY, headers)

    found: dict[tuple[str, str], Json] = {}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for name in REQUESTS:
        found["cold", name] = send(name, "one by one")
        found["streamed warm", name] = send(name, "one by one", **usage)
    with ThreadPoolExecutor(len(AT_ONCE)) as pool:
        futures = {name: pool.submit(send, name, "at once") for name in AT_ONCE}
        found |= {("at once", name): future.result() for name, future in futures.items()}
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back, and what the split ways counted meanwhile."""

    answers: dict[str, dict[tuple[str, str], Json]]  # by way, then by round and request
    remote_decisions: dict[str, float]
    pulls: dict[str, float]
    failures: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def asked(colocated: Any, tcp: Any, nixl: Any) -> Asked:
    """The table sent every way, all ways at the same time."""
    urls = {
        "colocated": colocated.url,
        "decode alone": tcp.pair.decode.url,
        "tcp": tcp.url,
        "nixl": nixl.url,
    }
    split = {"tcp": tcp, "nixl": nixl}

    def remote(way: str) -> float:
        router: Router = split[way].router
        return router.metric("steelyard_router:prefill_decisions_total", decision="remote")

    decisions = {way: remote(way) for way in split}
    pulls = {way: service.pair.pulls for way, service in split.items()}
    with ThreadPoolExecutor(len(urls)) as pool:
        futures = {way: pool.submit(ask_all, way, url) for way, url in urls.items()}
        answers = {way: future.result() for way, future in futures.items()}
    settle(*colocated.workers, *tcp.workers, *nixl.workers)
    return Asked(
        answers,
        {way: remote(way) - decisions[way] for way in split},
        {way: service.pair.pulls - pulls[way] for way, service in split.items()},
        {way: service.pair.failures for way, service in split.items()},
    )


def case(way: str, turn: str, name: str) -> Any:
    """Return one parameter set with a short name."""
    return pytest.param(way, turn, name, id=f"{way}, {turn}: {name}")


CASES = [
    case(way, turn, name)
    for way in WAYS
    for turn, names in (("cold", REQUESTS), ("streamed warm", REQUESTS), ("at once", AT_ONCE))
    for name in names
]


@pytest.mark.parametrize(("way", "turn", "name"), CASES)
def test_every_way_gives_the_same_answer(asked: Asked, way: str, turn: str, name: str) -> None:
    """Text, calls, finish reasons and counts are equal; log probabilities to 1e-3."""
    wanted = asked.answers["colocated"]["cold", name]
    given = asked.answers[way][turn, name]

    assert without_logprobs(given) == without_logprobs(wanted)
    assert logprob_numbers(given) == [
        pytest.approx(row, abs=1e-3) for row in logprob_numbers(wanted)
    ]


@pytest.mark.parametrize("name", REQUESTS)
def test_the_table_asks_for_what_it_says(asked: Asked, name: str) -> None:
    """No answer of the table is empty, so equal answers mean something."""
    document = asked.answers["colocated"]["cold", name]

    for choice in document["choices"]:
        message = choice.get("message", {})
        assert choice.get("text") or message.get("content") or message.get("tool_calls")
    assert document["usage"]["completion_tokens"] > 1
    assert document["usage"]["prompt_tokens"] > 64


@pytest.mark.parametrize("way", ["tcp", "nixl"])
def test_the_split_ways_really_were_split(asked: Asked, way: str) -> None:
    """Each cold prompt was prefilled elsewhere and its blocks arrived; nothing went wrong."""
    cold = len(REQUESTS) + len(AT_ONCE)

    assert asked.remote_decisions[way] >= cold
    assert asked.pulls[way] >= cold
    assert not any(asked.failures[way].values()), asked.failures[way]
