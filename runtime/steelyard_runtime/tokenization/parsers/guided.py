"""Tool calls that a grammar forces (`tool_choice`), see `tool_grammar.py`."""

from steelyard_runtime.tokenization.parsers.base import CallIds, ParsedDelta, ToolCallDelta
from steelyard_runtime.tokenization.parsers.call_reader import CallReader


class NamedCallParser:
    """For a named function: the whole text is the arguments of its one call."""

    def __init__(self, call_ids: CallIds, name: str) -> None:
        self._call_ids = call_ids
        self._name = name
        self._announced = False

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        if not text:
            return ParsedDelta()
        calls = [ToolCallDelta(0, text)]
        if not self._announced:
            self._announced = True
            calls.insert(0, ToolCallDelta(0, id=self._call_ids(0), name=self._name))
        return ParsedDelta(tool_calls=tuple(calls))

    def finish(self) -> ParsedDelta:
        """Return nothing: nothing is held back."""
        return ParsedDelta()


class CallListParser:
    """For `required`: the text is a JSON array of calls.

    A call that is cut off before its arguments begin (by the token limit) is left out.
    """

    def __init__(self, call_ids: CallIds) -> None:
        self._call_ids = call_ids
        self._reader: CallReader | None = None
        self._announced = False
        self._num_calls = 0

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        deltas: list[ToolCallDelta] = []
        at = 0
        while at < len(text):
            if self._reader is None:
                at = text.find("{", at)
                if at < 0:
                    break
                self._reader = CallReader()
                self._announced = False
            at = self._reader.feed(text, at)
            if self._reader.started:
                deltas += self._report(self._reader)
            if self._reader.done or self._reader.broken:
                self._reader = None
        return ParsedDelta(tool_calls=tuple(deltas))

    def finish(self) -> ParsedDelta:
        """Return nothing: an unfinished call has no more to give."""
        return ParsedDelta()

    def _report(self, reader: CallReader) -> list[ToolCallDelta]:
        deltas: list[ToolCallDelta] = []
        if not self._announced:
            self._announced = True
            self._num_calls += 1
            index = self._num_calls - 1
            deltas.append(ToolCallDelta(index, id=self._call_ids(index), name=reader.name))
        arguments = reader.take_arguments()
        if arguments:
            deltas.append(ToolCallDelta(self._num_calls - 1, arguments))
        return deltas
