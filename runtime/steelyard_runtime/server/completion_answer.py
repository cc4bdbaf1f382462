"""The answer of `/v1/completions`."""

from typing import Any

import orjson

from steelyard_runtime.server.answers import AnswerOptions, timing_field
from steelyard_runtime.server.event_frames import NULL, EventFrame, member
from steelyard_runtime.server.generation import Piece
from steelyard_runtime.server.logprob_shapes import CompletionLogprobShape
from steelyard_runtime.tokenization.tokenizer import Tokenizer


class _Choice:
    """What is kept of one choice."""

    __slots__ = (
        "finish_reason",
        "logprobs",
        "shape",
        "started",
        "stop_reason",
        "text",
        "token_ids",
    )

    def __init__(self, shape: CompletionLogprobShape | None) -> None:
        self.started = False
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.shape = shape
        self.logprobs: dict[str, list[Any]] | None = None
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None


class CompletionAnswer:
    """Text choices; `echoes` holds each prompt's text where the client wants it back."""

    def __init__(
        self,
        options: AnswerOptions,
        tokenizer: Tokenizer,
        prompts: list[list[int]],
        n: int,
        *,
        logprobs: bool,
        echoes: list[str] | None,
    ) -> None:
        self.options = options
        self._prompts = prompts
        self._n = n
        self._echoes = echoes
        self._kv_transfer_params: dict[str, Any] | None = None
        self._frame = EventFrame(
            options.identity, "text_completion", "text", include_usage=options.include_usage
        )
        self._choices = [
            _Choice(CompletionLogprobShape(tokenizer) if logprobs else None)
            for _ in range(len(prompts) * n)
        ]

    def resume(self, text: str) -> None:
        """Text alone has no state to rebuild."""

    def events(self, piece: Piece) -> bytes:
        """Return the events of a piece."""
        options, choice = self.options, self._choices[piece.index]
        text, logprobs = self._first(choice, piece), self._logprobs(choice, piece)
        is_first, choice.started = not choice.started, True
        plain = not (options.return_token_ids or options.timing)
        if plain and piece.finish_reason is None and logprobs is None:
            return self._frame.plain(piece.index, orjson.dumps(text)) if text else b""
        fields = b""
        if options.return_token_ids:
            fields = member("token_ids", piece.token_ids)
            if is_first:
                fields += member("prompt_token_ids", self._prompts[piece.index // self._n])
        if piece.stop_reason is not None:
            fields += member("stop_reason", piece.stop_reason)
        return self._frame.full(
            piece.index,
            orjson.dumps(text),
            logprobs=NULL if logprobs is None else orjson.dumps(logprobs),
            finish_reason=piece.finish_reason,
            choice_fields=fields,
            top_fields=timing_field(options, piece),
        )

    def closing(self, usage: dict[str, object]) -> bytes:
        """Return the usage chunk where it was asked for."""
        return self._frame.usage(usage) if self.options.include_usage else b""

    def collect(self, piece: Piece) -> None:
        """Keep a piece for `body`."""
        choice = self._choices[piece.index]
        choice.text.append(self._first(choice, piece))
        logprobs = self._logprobs(choice, piece)
        choice.started = True
        choice.token_ids += piece.token_ids
        if logprobs is not None and choice.logprobs is None:
            choice.logprobs = logprobs
        elif logprobs is not None and choice.logprobs is not None:
            for key, values in logprobs.items():
                choice.logprobs[key] += values
        if piece.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = piece.finish_reason, piece.stop_reason
        self._kv_transfer_params = piece.kv_transfer_params or self._kv_transfer_params

    def body(self, usage: dict[str, object]) -> bytes:
        """Return the JSON of everything that was collected."""
        identity = self.options.identity
        answer: dict[str, Any] = {
            "id": identity.id,
            "object": "text_completion",
            "created": identity.created,
            "model": identity.model,
            "choices": [self._choice_body(i, choice) for i, choice in enumerate(self._choices)],
            "usage": usage,
        }
        if self._kv_transfer_params is not None:
            answer["kv_transfer_params"] = self._kv_transfer_params
        return orjson.dumps(answer)

    def _choice_body(self, index: int, choice: _Choice) -> dict[str, Any]:
        body: dict[str, Any] = {
            "index": index,
            "text": "".join(choice.text),
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self.options.return_token_ids:
            body["token_ids"] = choice.token_ids
            body["prompt_token_ids"] = self._prompts[index // self._n]
        return body

    def _first(self, choice: _Choice, piece: Piece) -> str:
        if self._echoes is None or choice.started or self.options.resumed:
            return piece.text
        return self._echoes[piece.index // self._n] + piece.text

    def _logprobs(self, choice: _Choice, piece: Piece) -> dict[str, list[Any]] | None:
        if choice.shape is None:
            return None
        prompt = self._prompts[piece.index // self._n]
        given = [*(piece.prompt_logprobs or ()), *(piece.logprobs or ())]
        return choice.shape.shape(given, prompt[0] if prompt else None)
