"""Reads `{"name": …, "arguments": {…}}` from text that comes in pieces.

The arguments' text is passed on verbatim as it comes, once the name is known; whether it is valid
JSON is the model's affair (a grammar can force it), only its extent is found here.
"""

import json
import re
from enum import Enum, auto

_SPACE = " \t\r\n"
_IN_STRING = re.compile(r'["\\]')
_IN_NESTED = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[,}\]\s]")
# Llama's models say "parameters".
_ARGUMENT_KEYS = ("arguments", "parameters")


class _At(Enum):
    OBJECT = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    AFTER_VALUE = auto()
    END = auto()


class CallReader:
    """One call. After each `feed` read `name`, `done`, `broken` and `take_arguments()`."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._at = _At.OBJECT
        self._key = ""
        self._value: list[str] = []  # the text of the member that is being read
        self._reading_key = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._scalar = False
        self._streams = False  # the value being read goes out as it comes
        self._arguments: list[str] = []
        self._has_arguments = False

    @property
    def started(self) -> bool:
        """Whether the call can be announced: its name is known and its arguments have begun."""
        return self.name is not None and self._has_arguments

    def take_arguments(self) -> str:
        """Return the new text of the arguments; empty before `started`."""
        if not self.started:
            return ""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, text: str, start: int) -> int:
        """Read from `start` on; return where reading ended: the text's end, or the call's."""
        at = start
        while at < len(text) and not (self.done or self.broken):
            if self._at is _At.IN_VALUE:
                at = self._read_value(text, at)
            elif text[at] in _SPACE:
                at += 1
            else:
                at += self._read_mark(text[at])
        return at

    def _read_mark(self, char: str) -> int:
        """Take one character between values; return how many were used."""
        match self._at, char:
            case _At.OBJECT, "{":
                self._at = _At.FIRST_KEY
            case ((_At.FIRST_KEY | _At.AFTER_VALUE), "}"):
                self._close()
            case ((_At.FIRST_KEY | _At.KEY), '"'):
                self._begin_value(char)
                self._reading_key = True
                return 0
            case _At.COLON, ":":
                self._at = _At.VALUE
            case _At.AFTER_VALUE, ",":
                self._at = _At.KEY
            case _At.VALUE, _ if char not in ",}]:":
                self._begin_value(char)
                return 0
            case _:
                self.broken = True
        return 1

    def _begin_value(self, first: str) -> None:
        self._at = _At.IN_VALUE
        self._value = []
        self._depth = 0
        self._in_string = self._escaped = False
        self._scalar = first not in '"{['
        if not self._reading_key and self._key in _ARGUMENT_KEYS and first == "{":
            if self._has_arguments:
                self.broken = True  # Arguments twice.
            self._streams = self._has_arguments = True

    def _read_value(self, text: str, start: int) -> int:
        at, ended = self._value_end(text, start)
        target = self._arguments if self._streams else self._value
        target.append(text[start:at])
        if ended:
            self._end_value()
        return at

    def _value_end(self, text: str, at: int) -> tuple[int, bool]:
        """Return where the value, as far as it is in `text`, ends, and whether it is complete."""
        if self._scalar:
            found = _SCALAR_END.search(text, at)
            return (len(text), False) if found is None else (found.start(), True)
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_IN_STRING if self._in_string else _IN_NESTED).search(text, at)
            if found is None:
                return len(text), False
            at = found.end()
            match found.group():
                case "\\":
                    self._escaped = True
                case '"':
                    self._in_string = not self._in_string
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
            if not self._in_string and self._depth == 0:
                return at, True
        return at, False

    def _end_value(self) -> None:
        self._at = _At.AFTER_VALUE
        if self._streams:
            self._streams = False
            return
        try:
            value = json.loads("".join(self._value))
        except (ValueError, RecursionError):
            self.broken = True
            return
        if self._reading_key:
            self._reading_key = False
            self._key = value
            self._at = _At.COLON
        elif self._key == "name":
            self._set_name(value)
        elif self._key in _ARGUMENT_KEYS:
            self._set_arguments(value)

    def _set_name(self, value: object) -> None:
        if self.name is not None or not isinstance(value, str) or not value:
            self.broken = True
        else:
            self.name = value

    def _set_arguments(self, value: object) -> None:
        """Take arguments that are no object: a string holds them, null stands for none."""
        if self._has_arguments or not (value is None or isinstance(value, str)):
            self.broken = True
        else:
            self._has_arguments = True
            self._arguments.append(value or "{}")

    def _close(self) -> None:
        self._at = _At.END
        if self.name is None:
            self.broken = True
            return
        if not self._has_arguments:
            self._has_arguments = True
            self._arguments.append("{}")
        self.done = True
