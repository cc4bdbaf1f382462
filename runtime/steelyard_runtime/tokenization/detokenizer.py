"""Turns output ids into text, one token at a time, never splitting a character.

The concatenated pieces are what `Tokenizer.decode(ids, continues=True)` gives for all ids. Stop
strings are `stop_strings.py`'s business.
"""

import codecs
from collections.abc import Sequence

from steelyard_runtime.tokenization.tokenizer import Tokenizer


class Detokenizer:
    """The text of one sequence's output.

    `resumed` are output ids whose text the reader already has: what they complete is not given
    again, what they leave incomplete is.
    """

    __slots__ = ("_held", "_skipped", "_token_bytes")

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, resumed: Sequence[int] = ()
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._skipped: frozenset[int] = (
            tokenizer.special_token_ids if skip_special_tokens else frozenset()
        )
        self._held = b""  # the first bytes of a character
        for token_id in resumed:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Return the text that the token completes; empty while a character is incomplete."""
        if token_id in self._skipped:
            return ""
        data = self._held + self._token_bytes(token_id)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def finish(self) -> str:
        """Return what was held back: an incomplete character becomes U+FFFD."""
        text = self._held.decode(errors="replace")
        self._held = b""
        return text
