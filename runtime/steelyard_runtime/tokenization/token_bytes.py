"""Which bytes a vocabulary entry stands for.

True of byte-level vocabularies (GPT-2's) and of SentencePiece ones with byte tokens: each token
stands for fixed bytes whatever stands beside it, so text can be made token by token. Decoders
that need more than that are refused.
"""

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from steelyard_runtime.errors import CheckpointError

_SPACE_MARK = "▁"
_BYTE_TOKEN_LENGTH = len("<0x0A>")


def _alphabet() -> dict[str, int]:
    """Return GPT-2's letters: one printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(0x100) if byte not in printable)
    return letters | {chr(0x100 + shift): byte for shift, byte in enumerate(others)}


BYTE_OF_LETTER: dict[str, int] = _alphabet()


@dataclass(frozen=True, slots=True)
class ByteRules:
    """How entries become bytes. `leading_spaces`: so many are dropped at a text's start."""

    byte_level: bool = False
    space_mark: bool = False
    byte_tokens: bool = False
    leading_spaces: int = 0

    def bytes_of(self, entry: str) -> bytes:
        """Return the bytes of an ordinary (not an added) vocabulary entry."""
        if self.byte_level:
            try:
                return bytes(map(BYTE_OF_LETTER.__getitem__, entry))
            except KeyError:  # As in the tokenizers library: no letter, so the text itself.
                return entry.encode()
        if self.byte_tokens and len(entry) == _BYTE_TOKEN_LENGTH and entry.startswith("<0x"):
            with contextlib.suppress(ValueError):  # no byte, so the text itself
                return bytes.fromhex(entry[3:5])
        return (entry.replace(_SPACE_MARK, " ") if self.space_mark else entry).encode()


def read_byte_rules(decoder_json: str | None) -> ByteRules:
    """Return the rules of a `tokenizers` decoder, given as its JSON.

    Raises:
        CheckpointError: the decoder is of a kind whose tokens stand for no fixed bytes.
    """
    decoder: dict[str, Any] = json.loads(decoder_json) if decoder_json else {"type": "null"}
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    byte_level = space_mark = byte_tokens = False
    leading_spaces = 0
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_tokens = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}:
                space_mark = True
            case {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}:
                space_mark = True
                leading_spaces = int(scheme != "never")
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                leading_spaces = start
            case _:
                raise CheckpointError(
                    f"the tokenizer's decoder {step['type']!r} is not supported; must be "
                    "ByteLevel, or SentencePiece's (Replace, ByteFallback, Fuse, Strip, Metaspace)"
                )
    return ByteRules(byte_level, space_mark, byte_tokens, leading_spaces)
