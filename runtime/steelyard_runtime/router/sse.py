"""Cuts a byte stream into server-sent events. Comments are dropped: the router sends its own."""

import re

# One event: the longest hold the token ids of a whole prompt, or the arguments of a tool.
MOST_EVENT_BYTES = 8 * 1024**2
_SEPARATOR = re.compile(rb"\r?\n\r?\n")


class EventSplitter:
    """Collects bytes until whole events are there."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the `data` of each event that is now complete.

        Raises:
            ValueError: an event is larger than any may be.
        """
        if self._tail:
            data = self._tail + data
        # The usual line ends first: it is several times faster.
        events = _SEPARATOR.split(data) if b"\r" in data else data.split(b"\n\n")
        self._tail = events.pop()
        if len(self._tail) > MOST_EVENT_BYTES:
            self._tail = b""
            raise ValueError("an event without an end")
        payloads = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                payloads.append(event[6:])
            elif (payload := _payload(event)) is not None:
                payloads.append(payload)
        return payloads


def _payload(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    return b"\n".join(lines) if lines else None
