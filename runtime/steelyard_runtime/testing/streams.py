"""Streaming clients, several at once, whose progress a test can watch from outside."""

import http.client
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

STREAM_SECONDS = 120.0  # silence after which a client gives up


@dataclass(frozen=True, slots=True)
class Completion:
    """What a client has at the end: equal completions are the same answer."""

    text: str
    finish_reason: str | None
    completion_tokens: int


@dataclass(slots=True)
class Stream:
    """One streamed completion; read from other threads while it grows."""

    body: Mapping[str, Any]
    pieces: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    completion_tokens: int = 0
    ended: bool = False  # `[DONE]` came
    error: str = ""

    @property
    def begun(self) -> bool:
        """Whether any event with a choice has come."""
        return bool(self.pieces)

    def completion(self) -> Completion:
        """Return the answer."""
        return Completion("".join(self.pieces), self.finish_reason, self.completion_tokens)

    def take(self, payload: str) -> None:
        """Read one event."""
        if payload == "[DONE]":
            self.ended = True
            return
        event = json.loads(payload)
        if "error" in event:
            self.error = str(event["error"])
            return
        if event.get("usage"):
            self.completion_tokens = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            self.pieces.append(choice.get("text") or "")
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def run(self, url: str) -> None:
        """Ask and read to the end; what goes wrong is in `error`."""
        address = urlsplit(url)
        connection = http.client.HTTPConnection(
            str(address.hostname), address.port, timeout=STREAM_SECONDS
        )
        try:
            content = json.dumps(self.body)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", content, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                self.error = f"{answer.status}: {answer.read()!r}"
                return
            for line in answer:
                if line.startswith(b"data: "):
                    self.take(line[6:].decode().strip())
            if not self.ended and not self.error:
                self.error = "the stream ended without [DONE]"
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        finally:
            connection.close()


class Streams:
    """Streams that run at the same time."""

    def __init__(self, url: str, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Start all of them."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        self.streams = [Stream({**body, **options}) for body in bodies]
        self._threads = [
            threading.Thread(target=stream.run, args=(url,), daemon=True) for stream in self.streams
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> Self:
        """Wait until all have ended."""
        for thread in self._threads:
            thread.join()
        return self

    @property
    def over(self) -> bool:
        """Whether all have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def errors(self) -> list[str]:
        """Return what went wrong."""
        return [stream.error for stream in self.streams if stream.error]

    def completions(self) -> list[Completion]:
        """Return the answers in the order of the bodies."""
        return [stream.completion() for stream in self.streams]
