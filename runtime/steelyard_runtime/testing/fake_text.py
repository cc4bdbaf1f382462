"""Deterministic text without a model: what a fake worker generates.

Token i depends on prompt, seed, choice and position alone, as in the real engine. Some tokens hold
their text back until the next one, as an incremental detokeniser does with half characters.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from xxhash import xxh3_64_intdigest

_VOCABULARY = 5000


@dataclass(frozen=True, slots=True)
class FakeText:
    """One choice's endless output."""

    key: int

    @classmethod
    def of(cls, body: dict[str, Any], choice: int) -> "FakeText":
        """Return the output for a request body; `seed` decides as in the engine."""
        prompt = orjson.dumps([body.get("messages"), body.get("prompt"), body.get("seed"), choice])
        return cls(xxh3_64_intdigest(prompt))

    def token(self, position: int) -> int:
        """Return the token id at an output position."""
        return xxh3_64_intdigest(position.to_bytes(8, "little"), seed=self.key) % _VOCABULARY

    def held(self, position: int) -> bool:
        """Whether this token's text comes only with the next one's."""
        return position >= 0 and self.token(position) % 5 == 0

    def text(self, position: int, *, last: bool) -> str:
        """Return the text that becomes known with the token at `position`."""
        words = []
        start = position
        while self.held(start - 1):
            start -= 1
        if last or not self.held(position):
            words = [f" é{self.token(one)}" for one in range(start, position + 1)]
        return "".join(words)


def prompt_token_ids(body: dict[str, Any]) -> list[int]:
    """Return made-up token ids of a request's prompt, one for four characters."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return prompt
    text = orjson.dumps(body.get("messages") or prompt)
    return list(range(max(1, len(text) // 4)))
