"""The answer of `/v1/chat/completions`.

A piece of text becomes one event, whatever it brings (reasoning, content, tool calls), so that an
event's text and its token ids reach the client together or not at all.
"""

from typing import Any

import orjson

from steelyard_runtime.server.answers import AnswerOptions, timing_field
from steelyard_runtime.server.chat_deltas import ChoiceDeltas
from steelyard_runtime.server.event_frames import NULL, EventFrame, member
from steelyard_runtime.server.generation import Piece
from steelyard_runtime.server.logprob_shapes import chat_logprobs
from steelyard_runtime.tokenization.tokenizer import Tokenizer

_ROLE = {"role": "assistant", "content": ""}
_EMPTY = b"{}"


class _Choice:
    """What is kept of one choice."""

    __slots__ = ("deltas", "finish_reason", "logprobs", "started", "stop_reason", "token_ids")

    def __init__(self, deltas: ChoiceDeltas) -> None:
        self.deltas = deltas
        self.started = False
        self.token_ids: list[int] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None


class ChatAnswer:
    """Chat choices."""

    def __init__(
        self,
        options: AnswerOptions,
        tokenizer: Tokenizer,
        prompt: list[int],
        choices: list[ChoiceDeltas],
        *,
        logprobs: bool,
    ) -> None:
        self.options = options
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._wants_logprobs = logprobs
        self._prompt_ids_sent = False
        self._kv_transfer_params: dict[str, Any] | None = None
        self._choices = [_Choice(deltas) for deltas in choices]
        self._frame = EventFrame(
            options.identity, "chat.completion.chunk", "delta", include_usage=options.include_usage
        )

    def resume(self, text: str) -> None:
        """Bring the only choice's parser to where the stream broke off."""
        self._choices[0].deltas.resume(text)

    def events(self, piece: Piece) -> bytes:
        """Return the events of a piece: role first, then deltas, the finish reason last."""
        options, choice = self.options, self._choices[piece.index]
        delta = choice.deltas.push(piece.text, final=piece.finish_reason is not None)
        role = b"" if choice.started or options.resumed else self._role(piece.index)
        choice.started = True
        finish_reason = choice.deltas.finish_reason(piece.finish_reason)
        rich = options.return_token_ids or options.timing or self._wants_logprobs
        if not rich:
            event = self._frame.plain(piece.index, orjson.dumps(delta)) if delta else b""
            if finish_reason is None:
                return role + event
            return role + event + self._finish(piece, _EMPTY, finish_reason)
        if options.return_token_ids or finish_reason is None:
            # With token ids the last text and the end are one event: a replay gives both or none.
            return role + self._finish(piece, orjson.dumps(delta), finish_reason)
        logged = self._finish(piece, orjson.dumps(delta), None)
        return role + logged + self._finish(piece, _EMPTY, finish_reason, tokens=False)

    def closing(self, usage: dict[str, object]) -> bytes:
        """Return the usage chunk where it was asked for."""
        return self._frame.usage(usage) if self.options.include_usage else b""

    def collect(self, piece: Piece) -> None:
        """Keep a piece for `body`."""
        choice = self._choices[piece.index]
        choice.deltas.collect(piece.text, final=piece.finish_reason is not None)
        choice.token_ids += piece.token_ids
        if self._wants_logprobs:
            choice.logprobs += chat_logprobs(self._tokenizer, piece.logprobs or [])
        if piece.finish_reason is not None:
            choice.finish_reason = choice.deltas.finish_reason(piece.finish_reason)
            choice.stop_reason = piece.stop_reason
        self._kv_transfer_params = piece.kv_transfer_params or self._kv_transfer_params

    def body(self, usage: dict[str, object]) -> bytes:
        """Return the JSON of everything that was collected."""
        identity = self.options.identity
        answer: dict[str, Any] = {
            "id": identity.id,
            "object": "chat.completion",
            "created": identity.created,
            "model": identity.model,
            "choices": [self._choice_body(i, choice) for i, choice in enumerate(self._choices)],
            "usage": usage,
        }
        if self.options.return_token_ids:
            answer["prompt_token_ids"] = self._prompt
        if self._kv_transfer_params is not None:
            answer["kv_transfer_params"] = self._kv_transfer_params
        return orjson.dumps(answer)

    def _choice_body(self, index: int, choice: _Choice) -> dict[str, Any]:
        logprobs = {"content": choice.logprobs, "refusal": None} if self._wants_logprobs else None
        body: dict[str, Any] = {
            "index": index,
            "message": choice.deltas.message(),
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self.options.return_token_ids:
            body["token_ids"] = choice.token_ids
        return body

    def _role(self, index: int) -> bytes:
        if self.options.return_token_ids and not self._prompt_ids_sent:
            self._prompt_ids_sent = True
            ids = member("prompt_token_ids", self._prompt)
            return self._frame.full(index, orjson.dumps(_ROLE), top_fields=ids)
        return self._frame.plain(index, orjson.dumps(_ROLE))

    def _finish(
        self, piece: Piece, delta: bytes, finish_reason: str | None, *, tokens: bool = True
    ) -> bytes:
        fields, logprobs = b"", NULL
        if self.options.return_token_ids and tokens:
            fields = member("token_ids", piece.token_ids)
        if finish_reason is not None and piece.stop_reason is not None:
            fields += member("stop_reason", piece.stop_reason)
        if self._wants_logprobs and tokens and piece.logprobs:
            content = chat_logprobs(self._tokenizer, piece.logprobs)
            logprobs = orjson.dumps({"content": content, "refusal": None})
        return self._frame.full(
            piece.index,
            delta,
            logprobs=logprobs,
            finish_reason=finish_reason,
            choice_fields=fields,
            top_fields=timing_field(self.options, piece),
        )
