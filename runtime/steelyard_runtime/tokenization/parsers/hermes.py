"""Tool calls as the Hermes models write them: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

White space around calls is no content. What looks like a call and is none stays content, as it
was written; a call that breaks off after its arguments began keeps what came.
"""

from enum import Enum, auto

from steelyard_runtime.tokenization.parsers.base import CallIds, ParsedDelta, ToolCallDelta
from steelyard_runtime.tokenization.parsers.call_reader import CallReader
from steelyard_runtime.tokenization.parsers.held_text import split_at_tag
from steelyard_runtime.tokenization.tool_prompt import CALL_END, CALL_START


class _In(Enum):
    CONTENT = auto()
    CALL = auto()  # after the opening tag
    CLOSING = auto()  # after the object
    AFTER_CALL = auto()  # before the next word


class HermesParser:
    """Splits text into content and calls."""

    def __init__(self, call_ids: CallIds) -> None:
        self._call_ids = call_ids
        self._in = _In.CONTENT
        self._held = ""
        self._reader = CallReader()
        self._opening = ""  # white space and tag that are content again if no call follows
        self._announced = False
        self._num_calls = 0
        self._content: list[str] = []
        self._calls: list[ToolCallDelta] = []

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        rest = text
        while rest:
            match self._in:
                case _In.CONTENT:
                    rest = self._read_content(rest)
                case _In.CALL:
                    rest = self._read_call(rest)
                case _In.CLOSING:
                    rest = self._read_closing(rest)
                case _In.AFTER_CALL:
                    rest = rest.lstrip()
                    self._in = _In.CONTENT if rest else _In.AFTER_CALL
        return self._take()

    def finish(self) -> ParsedDelta:
        """Return what was held back."""
        if self._in is _In.CONTENT:
            self._content.append(self._held)
        elif self._in is _In.CALL and not self._announced:
            self._content.append(self._opening + self._held)
        self._held = ""
        return self._take()

    def _take(self) -> ParsedDelta:
        delta = ParsedDelta(content="".join(self._content), tool_calls=tuple(self._calls))
        self._content.clear()
        self._calls.clear()
        return delta

    def _read_content(self, text: str) -> str:
        before, space, after = split_at_tag(self._held + text, CALL_START)
        self._content.append(before)
        if space is None:
            self._held = after
            return ""
        self._held = ""
        self._opening = space + CALL_START
        self._reader = CallReader()
        self._announced = False
        self._in = _In.CALL
        return after

    def _read_call(self, text: str) -> str:
        end = self._reader.feed(text, 0)
        if not self._announced:
            self._held += text[:end]
        if self._reader.started:
            self._report_arguments()
        if self._reader.done:
            self._held = ""
            self._in = _In.CLOSING
            return text[end:]
        if not self._reader.broken:
            return ""
        self._in = _In.CONTENT
        if self._announced:
            return text[end:]
        # Nothing was said of a call yet: take it back, and look for one in what follows the tag.
        rest, self._held = self._held + text[end:], ""
        self._content.append(self._opening)
        return rest

    def _report_arguments(self) -> None:
        index = self._num_calls - 1
        if not self._announced:
            self._announced = True
            self._held = ""
            index = self._num_calls
            self._num_calls += 1
            call_id = self._call_ids(index)
            self._calls.append(ToolCallDelta(index, id=call_id, name=self._reader.name))
        arguments = self._reader.take_arguments()
        if arguments:
            self._calls.append(ToolCallDelta(index, arguments))

    def _read_closing(self, text: str) -> str:
        self._held = (self._held + text).lstrip()
        if CALL_END.startswith(self._held) and self._held != CALL_END:
            return ""
        rest, self._held = self._held.removeprefix(CALL_END), ""
        self._in = _In.AFTER_CALL
        return rest
