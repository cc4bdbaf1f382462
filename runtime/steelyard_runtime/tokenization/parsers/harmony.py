"""Answers in Harmony, the format of gpt-oss: messages with a channel and maybe a recipient.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…

`analysis` is reasoning, `final` content, and `commentary to=functions.NAME` a call of a function,
whose arguments are the message (OpenAI, "OpenAI Harmony Response Format", 2025). Commentary to
nobody is content: it says what is going to be done. The prompt ends with `<|start|>assistant`, so
an answer begins inside a header.
"""

import re
from enum import Enum, auto

from steelyard_runtime.tokenization.parsers.base import CallIds, ParsedDelta, ToolCallDelta

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
TAGS = frozenset({START, CHANNEL, MESSAGE, *ENDS, "<|constrain|>"})
"""All of them; the tokenizer of a model that speaks Harmony has each as a token."""

_HEADERS = (START, CHANNEL, " to=")
_FUNCTIONS = "functions."
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class _In(Enum):
    NOWHERE = auto()  # before a header, or before text without one
    HEADER = auto()
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()


class HarmonyParser:
    """Splits messages into reasoning, content and calls.

    Args:
        call_ids: makes the ids of calls; None where the client offered no function, and what the
            model says to one is content.
    """

    def __init__(self, call_ids: CallIds | None) -> None:
        self._call_ids = call_ids
        self._in = _In.NOWHERE
        self._held = ""
        self._num_calls = 0
        self._has_arguments = False
        self._said = {_In.REASONING: False, _In.CONTENT: False}
        self._parts: dict[_In, list[str]] = {_In.REASONING: [], _In.CONTENT: []}
        self._calls: list[ToolCallDelta] = []

    def push(self, text: str) -> ParsedDelta:
        """Take new text."""
        self._held += text
        while self._held and self._step():
            pass
        return self._take()

    def finish(self) -> ParsedDelta:
        """Return what was held back; a header without a message is dropped."""
        if self._in is _In.NOWHERE and self._held:
            self._in = _In.CONTENT
        if self._in not in (_In.NOWHERE, _In.HEADER):
            self._emit(self._held)
            self._end()
        self._held = ""
        return self._take()

    def _step(self) -> bool:
        """Read on; returns whether there may be more to read."""
        if self._in is _In.NOWHERE:
            if any(self._held.startswith(mark) for mark in _HEADERS):
                self._in = _In.HEADER
            elif any(mark.startswith(self._held) for mark in _HEADERS):
                return False
            else:
                self._in = _In.CONTENT  # a model that was made to write something else
            return True
        if self._in is _In.HEADER:
            header, tag, rest = self._held.partition(MESSAGE)
            if not tag:
                return False
            self._held = rest
            self._begin(header)
            return True
        return self._read_message()

    def _read_message(self) -> bool:
        found = min(
            ((at, tag) for tag in (*ENDS, START, CHANNEL) if (at := self._held.find(tag)) >= 0),
            default=None,
        )
        if found is None:
            keep = _partial(self._held)
            self._emit(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        at, tag = found
        self._emit(self._held[:at])
        self._end()
        self._held = self._held[at + (len(tag) if tag in ENDS else 0) :]
        return True

    def _begin(self, header: str) -> None:
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        to = "" if recipient is None else recipient[1]
        if to.startswith(_FUNCTIONS) and self._call_ids is not None:
            self._in = _In.CALL
            index, self._num_calls = self._num_calls, self._num_calls + 1
            name = to.removeprefix(_FUNCTIONS)
            self._calls.append(ToolCallDelta(index, id=self._call_ids(index), name=name))
            self._has_arguments = False
            return
        thinks = channel is not None and channel[1] == "analysis"
        # Tools of the model's own, such as a browser, are part of its thinking.
        thinks |= bool(to) and not to.startswith(_FUNCTIONS)
        self._in = _In.REASONING if thinks else _In.CONTENT
        if self._said[self._in]:
            self._emit("\n")

    def _emit(self, text: str) -> None:
        if not text:
            return
        if self._in is _In.CALL:
            self._has_arguments = True
            self._calls.append(ToolCallDelta(self._num_calls - 1, text))
        else:
            self._said[self._in] = True
            self._parts[self._in].append(text)

    def _end(self) -> None:
        if self._in is _In.CALL and not self._has_arguments:
            self._emit("{}")
        self._in = _In.NOWHERE

    def _take(self) -> ParsedDelta:
        content, reasoning = ("".join(self._parts[place]) for place in (_In.CONTENT, _In.REASONING))
        delta = ParsedDelta(content, reasoning, tuple(self._calls))
        for parts in self._parts.values():
            parts.clear()
        self._calls = []
        return delta


def _partial(text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    at = text.rfind("<")
    if at < 0:
        return 0
    rest = text[at:]
    return len(rest) if any(tag.startswith(rest) for tag in (*ENDS, START, CHANNEL)) else 0
