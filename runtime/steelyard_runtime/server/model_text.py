"""The served model as text: prompts to token ids, within the model's length.

Long texts are encoded in a thread, so that one request does not hold up the streams of others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from steelyard_runtime.errors import RequestError
from steelyard_runtime.tokenization.chat_template import ChatTemplate
from steelyard_runtime.tokenization.tokenizer import Tokenizer

# Below it encoding takes about a millisecond, which is less than a thread hop is worth.
INLINE_CHARACTERS = 4096

Result = TypeVar("Result")


class ModelText:
    """Tokenizer and chat template of the served model."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate, max_model_len: int, vocab_size: int
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size  # the model's, which may have more ids than the tokenizer
        self.template = template
        self.max_model_len = max_model_len
        longest = max(
            (len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)), default=1
        )
        # A text beyond it cannot fit whatever its tokens are: refused without encoding it.
        self._max_characters = (max_model_len + 1) * max(longest, 1)

    async def encode(self, text: str, *, add_special_tokens: bool, param: str) -> list[int]:
        """Return the ids of a prompt.

        Raises:
            RequestError: it is too long or no valid Unicode.
        """
        if len(text) > self._max_characters:
            raise RequestError(
                f"`{param}` has {len(text)} characters, more than {self.max_model_len} tokens can "
                "hold, which is the model's length",
                param=param,
                code="context_length_exceeded",
            )
        encode = self.tokenizer.encode
        return await self._maybe_in_thread(
            len(text), lambda: encode(text, add_special_tokens=add_special_tokens)
        )

    async def render(
        self, messages: Sequence[Mapping[str, Any]], *, num_characters: int, **options: Any
    ) -> str:
        """Return the prompt text of a conversation; `options` are those of `ChatTemplate.render`.

        Raises:
            RequestError: the messages are damaged, or the template refuses them.
        """
        return await self._maybe_in_thread(
            num_characters, lambda: self.template.render(messages, **options)
        )

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Refuse ids that the model does not have.

        Raises:
            RequestError: an id is outside of the vocabulary.
        """
        wrong = max(token_ids, default=0)
        if wrong >= self.vocab_size:
            raise RequestError(
                f"`{param}` must hold token ids below {self.vocab_size}, got {wrong}",
                param=param,
                code="invalid_token_id",
            )

    def max_tokens(self, num_prompt_tokens: int, asked: int | None, default: int | None) -> int:
        """Return how many tokens may be generated.

        Raises:
            RequestError: prompt and output do not fit into the model's length.
        """
        room = self.max_model_len - num_prompt_tokens
        if room < 1:
            raise RequestError(
                f"the prompt has {num_prompt_tokens} tokens; with at least one token of output at "
                f"most {self.max_model_len} fit into the model's length",
                param="prompt",
                code="context_length_exceeded",
            )
        if asked is None:
            return room if default is None else min(default, room)
        if asked > room:
            raise RequestError(
                f"`max_tokens` must be at most {room}: the prompt has {num_prompt_tokens} tokens, "
                f"the model's length is {self.max_model_len}; got {asked}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return asked

    @staticmethod
    async def _maybe_in_thread(num_characters: int, work: Callable[[], Result]) -> Result:
        if num_characters <= INLINE_CHARACTERS:
            return work()
        return await asyncio.to_thread(work)
