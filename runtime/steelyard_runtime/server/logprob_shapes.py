"""Log probabilities in OpenAI's two shapes."""

import math
from typing import Any

from steelyard_runtime.ipc.messages import TokenLogprobs
from steelyard_runtime.tokenization.tokenizer import Tokenizer

# JSON has no infinity; OpenAI writes so for what cannot happen.
LOWEST = -9999.0


def chat_logprobs(tokenizer: Tokenizer, given: list[TokenLogprobs]) -> list[dict[str, Any]]:
    """Return `logprobs.content` of a chat choice."""
    return [
        {
            **_entry(tokenizer, item.token_id, item.logprob),
            "top_logprobs": [_entry(tokenizer, token, value) for token, value in item.top],
        }
        for item in given
    ]


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {
        "token": data.decode(errors="replace"),
        "logprob": _finite(logprob),
        "bytes": list(data),
    }


class CompletionLogprobShape:
    """`logprobs` of a completion choice; `text_offset` goes on from chunk to chunk."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def shape(
        self, given: list[TokenLogprobs | None], first_token_id: int | None = None
    ) -> dict[str, Any]:
        """Return the object; a None entry is the prompt's first token, which nothing predicts."""
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for item in given:
            token_id = item.token_id if item is not None else first_token_id
            text = "" if token_id is None else self._name(token_id)
            tokens.append(text)
            offsets.append(self._offset)
            self._offset += len(text)
            values.append(None if item is None else _finite(item.logprob))
            tops.append(None if item is None else self._top(item))
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _top(self, item: TokenLogprobs) -> dict[str, float]:
        top = {self._name(token): _finite(value) for token, value in item.top}
        top.setdefault(self._name(item.token_id), _finite(item.logprob))
        return top

    def _name(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            # As OpenAI: a part of a character has no text, and all U+FFFD would be one key.
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: float) -> float:
    return value if math.isfinite(value) and value > LOWEST else LOWEST
