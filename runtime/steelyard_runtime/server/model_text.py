"""The served model as text: prompts to token ids, within the model's length.

Long texts are encoded in a thread, so that one request does not hold up the streams of others.
"""

from collections.abc import Sequence
from typing import Any

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.protocol.generation import RequestModel
from steelyard_runtime.server.template_renderer import TemplateRenderer
from steelyard_runtime.server.work_threads import INLINE_BYTES, WorkThreads
from steelyard_runtime.tokenization.template_process import Render
from steelyard_runtime.tokenization.tokenizer import Tokenizer


class ModelText:
    """Tokenizer and chat template of the served model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: TemplateRenderer,
        max_model_len: int,
        vocab_size: int,
        threads: WorkThreads | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size  # the model's, which may have more ids than the tokenizer
        self.templates = templates
        self.max_model_len = max_model_len
        self._threads = threads or WorkThreads()
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
        (ids,) = await self.encode_all([text], add_special_tokens=add_special_tokens, param=param)
        return ids

    async def encode_all(
        self, texts: Sequence[str], *, add_special_tokens: bool, param: str
    ) -> list[list[int]]:
        """Return the ids of several prompts.

        Raises:
            RequestError: one is too long or no valid Unicode.
        """
        longest = max(map(len, texts), default=0)
        if longest > self._max_characters:
            raise RequestError(
                f"`{param}` has {longest} characters, more than {self.max_model_len} tokens can "
                "hold, which is the model's length",
                param=param,
                code="context_length_exceeded",
            )
        encode = self.tokenizer.encode
        return await self._threads.run(
            sum(map(len, texts)), lambda: [encode(text, add_special_tokens) for text in texts]
        )

    async def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        decode = self.tokenizer.decode
        return await self._threads.run(len(token_ids), lambda: decode(token_ids, False))

    async def token_strings(self, token_ids: Sequence[int]) -> list[str | None]:
        """Return the vocabulary's spelling of each id."""
        spell = self.tokenizer.token_string
        return await self._threads.run(len(token_ids), lambda: [spell(i) for i in token_ids])

    async def render(
        self,
        messages: Sequence[RequestModel],
        *,
        tools: Sequence[RequestModel] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        variables: dict[str, Any] | None,
    ) -> str:
        """Return the prompt text of a conversation; `ChatTemplate.render` says what is what.

        Raises:
            RequestError: the messages are damaged, or the template refuses them.
        """

        def request() -> Render:
            return Render(
                [message.model_dump(exclude_none=True) for message in messages],
                [tool.model_dump(exclude_none=True) for tool in tools] if tools else None,
                add_generation_prompt,
                continue_final_message,
                variables,
                self._max_characters,
            )

        # A message takes about as long as this number of bytes of text; tools may be large.
        size = 64 * len(messages) + (INLINE_BYTES + 1 if tools else 0)
        return await self.templates.render(await self._threads.run(size, request))

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

    def check_resumed(self, token_ids: Sequence[int]) -> None:
        """Refuse an answer so far that the model cannot have given.

        Raises:
            RequestError: it is longer than the model's length, or an id is unknown.
        """
        param = "steelyard.resume_token_ids"
        if len(token_ids) > self.max_model_len:
            raise RequestError(
                f"`{param}` may have at most {self.max_model_len} token ids, the model's length, "
                f"got {len(token_ids)}",
                param=param,
                code="context_length_exceeded",
            )
        self.check_token_ids(token_ids, param)

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
