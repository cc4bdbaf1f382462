"""Bad requests through a real worker and through the router: one sentence, nobody disturbed."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from steelyard_runtime.testing.http_answers import CHAT, COMPLETIONS, Json, ask
from steelyard_runtime.testing.services import settle

pytestmark = pytest.mark.model

MODEL = "smollm2"
KEY = "sk-interop"
VOCABULARY = 49_152
USER = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@dataclass(frozen=True, slots=True)
class Bad:
    """A request, and what its answer must say."""

    name: str
    body: bytes
    status: int
    says: str  # a part of the sentence
    path: str = COMPLETIONS
    method: str = "POST"
    content_type: str = "application/json"
    key: str = KEY


def completion(says: str, status: int = 400, **fields: Any) -> Bad:
    """Return a completion with these fields over good ones."""
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 2, **fields}
    return Bad(f"completion {_short(fields)}", json.dumps(body).encode(), status, says)


def chat(says: str, status: int = 400, **fields: Any) -> Bad:
    """Return a chat with these fields over good ones."""
    body = {"model": MODEL, "messages": USER, "max_tokens": 2, **fields}
    return Bad(f"chat {_short(fields)}", json.dumps(body).encode(), status, says, CHAT)


def _short(fields: Json) -> str:
    return json.dumps(fields)[:60]


def schema(given: Any) -> Json:
    """Return a structured response format."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": given}}


BAD = [
    Bad("cut JSON", b'{"prompt": "a', 400, "JSON"),
    Bad("empty body", b"", 400, "JSON"),
    Bad("array", b"[1]", 400, "object"),
    Bad("not UTF-8", b'{"prompt": "\xff\xfe"}', 400, "JSON"),
    Bad("lone surrogate", b'{"prompt": "\\ud800"}', 400, "JSON"),
    Bad("not a number", b'{"prompt": "a", "temperature": NaN}', 400, "JSON"),
    Bad("deep", b"[" * 100_000, 400, "JSON"),
    Bad("no prompt", b"{}", 400, "prompt"),
    Bad("no messages", b"{}", 400, "messages", CHAT),
    Bad("unknown path", b"{}", 404, "/v1/chat/completions", "/v1/embeddings"),
    Bad("wrong method", b"", 405, "POST", method="GET"),
    Bad("wrong key", b"{}", 401, "key", key="sk-nobody"),
    Bad("no key", b"{}", 401, "key", key=""),
    Bad("too large", b" " * (11 << 20), 413, str(10 << 20)),
    completion("gpt-4", 404, model="gpt-4"),
    completion("`model`", model=7),
    completion("`prompt`", prompt=[]),
    completion("`prompt`", prompt=[[]]),
    completion("`prompt`", prompt=5),
    completion("`prompt`", prompt=["a", 5]),
    completion("49152", prompt=[1, VOCABULARY]),
    completion("`prompt`", prompt=[-1]),
    completion("8192", prompt=[7] * 8193),
    completion("8192", prompt=[7] * 8000, max_tokens=500),
    completion("`max_tokens`", max_tokens=0),
    completion("`max_tokens`", max_tokens=1.5),
    completion("`max_tokens`", max_tokens="9"),
    completion("`temperature`", temperature=-0.1),
    completion("`temperature`", temperature=True),
    completion("`top_p`", top_p=0),
    completion("`n`", n=0),
    completion("`n`", n=100),
    completion("`seed`", seed="x"),
    completion("`seed`", seed=2**70),
    completion("`stop`", stop=[1]),
    completion("`stop`", stop=""),
    completion("`stream`", stream="yes"),
    completion("`stream_options`", stream_options={"include_usage": True}),
    completion("`logprobs`", logprobs=21),
    completion("`logit_bias`", logit_bias={"dog": 1}),
    completion("`logit_bias`", logit_bias={str(VOCABULARY): 1}),
    completion("`min_tokens`", min_tokens=5),
    completion("`best_of`", best_of=3),
    completion("`suffix`", suffix="end"),
    completion("`response_format", response_format={"type": "xml"}),
    chat("`messages`", messages=[]),
    chat("`messages`", messages="hi"),
    chat("role", messages=[{"role": "king", "content": "a"}]),
    chat("content", messages=[{"role": "user", "content": 5}]),
    chat(
        "image_url",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ),
    chat("`top_logprobs`", top_logprobs=2),
    chat("`top_logprobs`", logprobs=True, top_logprobs=99),
    chat("`tool_choice`", tool_choice="always"),
    chat("tools", tool_choice="required"),
    chat("nobody", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nobody"}}),
    chat("tools", tools=[{"type": "browser"}]),
    chat("schema", response_format={"type": "json_schema"}),
    chat("nonsense", response_format=schema({"type": "nonsense"})),
    chat("schema", response_format=schema("text")),
]


def send(url: str, bad: Bad) -> tuple[int, Json, str]:
    """Send it as it is; return status, body and the content type."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"Content-Type": bad.content_type, "Authorization": f"Bearer {bad.key}"}
    if not bad.key:
        headers.pop("Authorization")
    try:
        connection.request(bad.method, bad.path, bad.body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers["Content-Type"]
    finally:
        connection.close()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
@pytest.mark.parametrize("service", ["colocated", "tcp"], indirect=True)
def test_a_bad_request_gets_one_sentence(service: Any, bad: Bad) -> None:
    """The status fits, and one sentence names what is wrong, in OpenAI's shape."""
    status, body, content_type = send(service.url, bad)

    message = body["error"]["message"]
    assert (status, content_type.split(";")[0]) == (bad.status, "application/json"), message
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert bad.says in message
    assert "\n" not in message
    assert len(message) < 500
    assert "Traceback" not in message


def test_unknown_fields_are_ignored_by_workers_and_counted(colocated: Any) -> None:
    """Other routers send fields of their own engines; the metrics tell which."""
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1, "separate_reasoning": True}
    name = "steelyard:ignored_request_fields_total"
    (worker,) = colocated.workers
    before = worker.metric(name, field="separate_reasoning")

    ask(colocated.url, COMPLETIONS, body, KEY)

    assert worker.metric(name, field="separate_reasoning") - before == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("temprature", 0.5, "`temperature`"),
        ("max_token", 5, "`max_tokens`"),
        ("kv_transfer_params", {"do_remote_prefill": True}, "clients"),
        ("steelyard", {"resume_token_ids": [1]}, "clients"),
    ],
)
def test_unknown_fields_are_refused_by_the_router(
    tcp: Any, field: str, value: Any, says: str
) -> None:
    """A misspelt field is told with the nearest allowed one; internal fields are not taken."""
    status, body, _ = send(tcp.url, completion(says, **{field: value}))

    assert status == 400
    assert body["error"]["param"] == field
    assert says in body["error"]["message"]


PULL = {
    "do_remote_prefill": True,
    "remote_engine_id": "nobody",
    "remote_request_id": "r",
    "remote_host": "127.0.0.1",
    "remote_port": 9,
    "remote_block_ids": [[0]],
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"remote_host": None}, "remote_host"),
        ({"remote_port": "5600"}, "remote_port"),
        ({"remote_port": 70_000}, "remote_port"),
        ({"remote_block_ids": [["a"]]}, "remote_block_ids"),
        ({"remote_block_ids": [[-1]]}, "remote_block_ids"),
        ({"remote_num_tokens": -5}, "remote_num_tokens"),
        ({"do_remote_decode": True}, "do_remote_decode"),
        ({"steelyard": []}, "steelyard"),
    ],
    ids=str,
)
def test_wrong_transfer_parameters_are_told(tcp: Any, changes: Json, says: str) -> None:
    """A decode worker names the parameter that a foreign router got wrong."""
    bad = completion(says, kv_transfer_params=PULL | changes)
    status, body, _ = send(tcp.pair.decode.url, bad)

    assert status == 400
    assert says in body["error"]["message"]


@pytest.mark.parametrize("service", ["colocated", "tcp"], indirect=True)
def test_bad_requests_disturb_nobody(service: Any) -> None:
    """A stream in the midst of the whole table, sent at once, is the stream of a quiet server."""
    prompt = f"{service.name}: it was a quiet afternoon until the letters came. " * 6
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 12, "temperature": 0, "stream": True}
    with ThreadPoolExecutor(8) as pool:
        stream = pool.submit(ask, service.url, COMPLETIONS, body, KEY)
        statuses = list(pool.map(lambda bad: send(service.url, bad)[0], BAD))
        amid = stream.result()

    assert statuses == [bad.status for bad in BAD]
    assert ask(service.url, COMPLETIONS, body, KEY) == amid
    settle(*service.workers)


def test_a_full_queue_says_when_to_come_again(colocated: Any) -> None:
    """Beyond what may run and wait a request gets 429; those before it are served."""
    many = {"model": MODEL, "prompt": "Hello", "n": 16, "max_tokens": 8, "temperature": 0}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: send(colocated.url, completion("", 200, **many)), range(4)))

    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 429}
    settle(*colocated.workers)


@pytest.mark.parametrize("token", ["", "wrong", KEY])
def test_the_admin_port_wants_the_services_token(colocated: Any, token: str) -> None:
    """Neither nothing, nor another text, nor an API key opens the admin port."""
    (worker,) = colocated.workers
    url = f"http://127.0.0.1:{worker.admin_port}"

    for method, path in (("GET", "/state"), ("POST", "/drain"), ("POST", "/role")):
        status, body, _ = send(url, Bad(path, b"{}", 401, "", path, method, key=token))
        assert status == 401
        assert "service token" in body["error"]["message"]
    assert worker.state()["phase"] == "ready"
