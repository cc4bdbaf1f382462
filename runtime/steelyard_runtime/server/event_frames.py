"""SSE events by splicing: what is the same in every event of a stream is encoded once.

Encoding a whole chunk object for each token would cost more than everything else on the way of a
token through this process.
"""

from dataclasses import dataclass

import orjson

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
NULL = b"null"


@dataclass(frozen=True, slots=True)
class Identity:
    """What every chunk and the whole answer say of themselves."""

    id: str
    created: int
    model: str


class EventFrame:
    """The frame of one stream's events."""

    def __init__(
        self, identity: Identity, kind: str, payload_key: str, *, include_usage: bool
    ) -> None:
        """Encode the constant parts.

        Args:
            identity: of the answer.
            kind: `object` of a chunk.
            payload_key: `delta` or `text`, the changing part of a choice.
            include_usage: whether each chunk says `"usage": null` before the last one.
        """
        head = orjson.dumps(
            {
                "id": identity.id,
                "object": kind,
                "created": identity.created,
                "model": identity.model,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._payload_key = b',"' + payload_key.encode() + b'":'
        self._usage = b',"usage":null' if include_usage else b""
        self._plain_end = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        self._starts: dict[int, bytes] = {}

    def plain(self, index: int, payload: bytes) -> bytes:
        """Return an event with nothing but its payload: the case of nearly every token."""
        return self._start(index) + payload + self._plain_end

    def full(
        self,
        index: int,
        payload: bytes,
        *,
        logprobs: bytes = NULL,
        finish_reason: str | None = None,
        choice_fields: bytes = b"",
        top_fields: bytes = b"",
    ) -> bytes:
        """Return an event; `*_fields` are encoded members, each with a comma before it."""
        return b"".join(
            (
                self._start(index),
                payload,
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                NULL if finish_reason is None else orjson.dumps(finish_reason),
                choice_fields,
                b"}]",
                self._usage,
                top_fields,
                b"}\n\n",
            )
        )

    def usage(self, usage: dict[str, object]) -> bytes:
        """Return the last chunk, which has no choices."""
        return self._head + b'],"usage":' + orjson.dumps(usage) + b"}\n\n"

    def _start(self, index: int) -> bytes:
        start = self._starts.get(index)
        if start is None:
            start = self._starts[index] = b'%b{"index":%d%b' % (
                self._head,
                index,
                self._payload_key,
            )
        return start


def member(name: str, value: object) -> bytes:
    """Return `,"name":value`."""
    return b',"%b":%b' % (name.encode(), orjson.dumps(value))
