"""What a parser of output text is: text goes in as it comes, parts of the answer come out.

The same parser serves streams and whole texts: however the text is cut into pieces, the joined
parts are the same.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of one tool call; the first of a call has `id` and `name`, later ones text only."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedDelta:
    """New parts of the answer; empty ones are to be left out of what the client gets."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


class OutputParser(Protocol):
    """Reads one choice's text. A new one for every choice; built again by pushing what was sent."""

    def push(self, text: str) -> ParsedDelta:
        """Take new text; text whose meaning is open is held back."""

    def finish(self) -> ParsedDelta:
        """Return what was held back; nothing may be pushed afterwards."""


class CallIds(Protocol):
    """Makes the id of the call with this index; the same for the same choice, run after run."""

    def __call__(self, index: int) -> str:
        """Return the id."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole call; `arguments` is the JSON text that the model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A whole answer, for clients that do not stream."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]


class PartsCollector:
    """Joins deltas to a whole answer."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    def add(self, delta: ParsedDelta) -> None:
        """Take the next delta."""
        self._content.append(delta.content)
        self._reasoning.append(delta.reasoning)
        for call in delta.tool_calls:
            if call.name is not None:
                self._calls.append((call.id or "", call.name, []))
            self._calls[call.index][2].append(call.arguments)

    def result(self) -> ParsedText:
        """Return the answer so far."""
        return ParsedText(
            "".join(self._content),
            "".join(self._reasoning),
            tuple(ToolCall(id_, name, "".join(parts)) for id_, name, parts in self._calls),
        )


def parse_whole(parser: OutputParser, text: str) -> ParsedText:
    """Return what a fresh parser makes of a whole text."""
    collector = PartsCollector()
    collector.add(parser.push(text))
    collector.add(parser.finish())
    return collector.result()
