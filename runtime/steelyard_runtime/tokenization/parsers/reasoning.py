"""Reasoning between `<think>` and `</think>`, which clients get as `reasoning_content`.

White space beside the tags belongs to neither part.
"""

from enum import Enum, auto

from steelyard_runtime.tokenization.parsers.base import OutputParser, ParsedDelta
from steelyard_runtime.tokenization.parsers.held_text import split_at_tag

THINK_START = "<think>"
THINK_END = "</think>"


class _In(Enum):
    START = auto()  # only white space or a part of the opening tag so far
    BEFORE_REASONING = auto()
    REASONING = auto()
    AFTER_REASONING = auto()
    CONTENT = auto()


class ThinkParser:
    """Splits reasoning off; what follows it goes through the next parser.

    Args:
        then: the parser of the content.
        opened: the text starts inside the reasoning, because the prompt ends with `<think>` or the
            model always reasons; a repeated opening tag is dropped.
    """

    def __init__(self, then: OutputParser, *, opened: bool) -> None:
        self._then = then
        self._opened = opened
        self._in = _In.START
        self._held = ""

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        reasoning: list[str] = []
        rest = text
        while rest and self._in is not _In.CONTENT:
            match self._in:
                case _In.START:
                    rest = self._read_start(rest)
                case _In.BEFORE_REASONING:
                    rest = rest.lstrip()
                    self._in = _In.REASONING if rest else self._in
                case _In.REASONING:
                    before, space, after = split_at_tag(self._held + rest, THINK_END)
                    reasoning.append(before)
                    if space is None:
                        rest, self._held = "", after
                    else:
                        rest, self._held, self._in = after, "", _In.AFTER_REASONING
                case _:
                    rest = rest.lstrip()
                    self._in = _In.CONTENT if rest else self._in
        parsed = self._then.push(rest) if rest else ParsedDelta()
        return ParsedDelta(parsed.content, "".join(reasoning), parsed.tool_calls)

    def finish(self) -> ParsedDelta:
        """Return what was held back."""
        reasoning, before = "", ParsedDelta()
        if self._in is _In.REASONING:
            reasoning = self._held
        elif self._in is _In.START and self._opened:
            reasoning = self._held.lstrip()
        elif self._held:
            before = self._then.push(self._held)
        self._held = ""
        rest = self._then.finish()
        return ParsedDelta(
            before.content + rest.content, reasoning, before.tool_calls + rest.tool_calls
        )

    def _read_start(self, text: str) -> str:
        whole = self._held + text
        body = whole.lstrip()
        self._held = ""
        if body.startswith(THINK_START):
            self._in = _In.BEFORE_REASONING
            return body.removeprefix(THINK_START)
        if THINK_START.startswith(body):
            self._held = whole
            return ""
        self._in = _In.REASONING if self._opened else _In.CONTENT
        return body if self._opened else whole
