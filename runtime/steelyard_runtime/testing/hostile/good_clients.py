"""The good traffic: eight streams whose texts are known, and probes of health."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard_runtime.testing.hostile.target import HOST

NUM_STREAMS = 8
SILENCE_SECONDS = 60.0  # after which a good client gives up
PROBE_SECONDS = 5.0  # a probe of Kubernetes waits for 1 to 10 s
PROBE_PAUSE_SECONDS = 1.0

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "people": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}
DRAWN = {"temperature": 0.8, "top_p": 0.95, "ignore_eos": True}
GREEDY = {"temperature": 0, "ignore_eos": True}


def good_bodies(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return path and body of each stream; `text` gives prompts, at least 4,000 characters."""
    completions, chat = "/v1/completions", "/v1/chat/completions"
    ask = [{"role": "user", "content": "Name a large city and how many people live there."}]
    return [
        (completions, {"prompt": "One two three", "max_tokens": 50, **GREEDY}),
        (completions, {"prompt": text[:900], "max_tokens": 40, **GREEDY}),
        (completions, {"prompt": text[1000:1600], "max_tokens": 40, "seed": 1, **DRAWN}),
        (completions, {"prompt": text[2000:2300], "max_tokens": 50, "seed": 2, **DRAWN}),
        (completions, {"prompt": text[3000:3100], "max_tokens": 50, "logprobs": 2, **GREEDY}),
        (chat, {"messages": ask, "max_tokens": 40, "temperature": 0}),
        (chat, {"messages": ask, "max_tokens": 40, "seed": 3, **DRAWN, **_json_schema()}),
        (
            chat,
            {
                "messages": [{"role": "user", "content": "How is the weather in Paris?"}],
                "max_tokens": 40,
                "temperature": 0,
                "tools": [WEATHER],
                "tool_choice": "required",
            },
        ),
    ]


def _json_schema() -> dict[str, Any]:
    given = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    return {"response_format": given, "ignore_eos": False}


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest silence between two events of one answer (CLOCK_MONOTONIC)."""

    stream: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to; an error, if any, in words."""

    stream: int
    began: float
    first_event: float | None
    gap: Gap
    said: str
    error: str = ""


@dataclass(slots=True)
class _Reading:
    """One answer as it comes."""

    stream: int
    began: float
    last: float
    gap: Gap
    first: float | None = None
    done: bool = False
    said: list[str] = field(default_factory=list)

    def take(self, payload: bytes) -> None:
        """Read one event."""
        now = time.monotonic()
        if self.first is None:
            self.first = self.last = now
        self.note_silence(now)
        self.last = now
        if payload == b"[DONE]":
            self.done = True
        else:
            self.said.append(_said(json.loads(payload)))

    def note_silence(self, now: float) -> None:
        """Keep the longest gap after the first event."""
        if self.first is not None and now - self.last > self.gap.seconds:
            self.gap = Gap(self.stream, self.last, now)

    def answer(self, error: str) -> Answer:
        """Return what it came to."""
        self.note_silence(time.monotonic())
        return Answer(self.stream, self.began, self.first, self.gap, "".join(self.said), error)


def ask(
    port: int, stream: int, asked: tuple[str, Mapping[str, Any]], *, key: str = "", salt: str = ""
) -> Answer:
    """Make one streamed request, of path and body, and read it to its end."""
    path, body = asked
    began = time.monotonic()
    reading = _Reading(stream, began, began, Gap(stream, began, began))
    connection = http.client.HTTPConnection(HOST, port, timeout=SILENCE_SECONDS)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        content = {**body, "stream": True, **({"cache_salt": salt} if salt else {})}
        connection.request("POST", path, json.dumps(content), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return reading.answer(f"{answer.status}: {answer.read()[:300]!r}")
        for line in answer:
            if line.startswith(b"data: "):
                reading.take(line[6:].strip())
            if reading.done:
                return reading.answer("")
        return reading.answer("the stream ended without [DONE]")
    except _EventError as told:
        return reading.answer(f"the stream says: {told}")
    except (OSError, http.client.HTTPException) as broken:
        return reading.answer(repr(broken))
    finally:
        connection.close()


class _EventError(Exception):
    """An event with an error."""


def _said(event: Mapping[str, Any]) -> str:
    """Return what an event adds to the answer, without what differs each time (ids, times)."""
    if "error" in event:
        raise _EventError(str(event["error"])[:300])
    said = ""
    for choice in event["choices"]:
        delta = choice.get("delta") or {}
        said += (choice.get("text") or "") + (delta.get("content") or "")
        for call in delta.get("tool_calls") or ():
            said += call["function"].get("name") or ""
            said += call["function"].get("arguments") or ""
        if choice.get("finish_reason"):
            said += f"\n[{choice['finish_reason']}]"
    return said


@dataclass(slots=True)
class GoodTraffic:
    """Eight threads, each of which asks its question again and again."""

    ports: Sequence[tuple[int, str]]  # router's port and key; streams take turns
    bodies: Sequence[tuple[str, Mapping[str, Any]]]
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        for stream in range(len(self.bodies)):
            thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, stream: int) -> None:
        port, key = self.ports[stream % len(self.ports)]
        number = 0
        while not self._stop.is_set():
            # Every other prompt is new to all caches, so that transfers go on.
            salt = f"{time.monotonic()}" if number % 2 else ""
            number += 1
            answer = ask(port, stream, self.bodies[stream], key=key, salt=salt)
            self.answers.append(answer)
            if answer.error:
                self._stop.wait(0.5)


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at a server's health."""

    name: str
    began: float
    seconds: float
    error: str


@dataclass(slots=True)
class Probes:
    """What a kubelet does: `GET` on every server, once a second."""

    paths: Mapping[str, tuple[int, str]]  # by name: port and path
    probes: list[Probe] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        for name in self.paths:
            thread = threading.Thread(target=self._run, args=(name,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        port, path = self.paths[name]
        while not self._stop.wait(PROBE_PAUSE_SECONDS):
            self.probes.append(_probe(name, port, path))


def _probe(name: str, port: int, path: str) -> Probe:
    began, error = time.monotonic(), ""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        error = "" if answer.status == 200 else str(answer.status)
    except (OSError, http.client.HTTPException) as broken:
        error = repr(broken)
    finally:
        connection.close()
    return Probe(name, began, time.monotonic() - began, error)


def in_parallel(calls: Sequence[Callable[[], None]]) -> None:
    """Run all at once and wait for all."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
