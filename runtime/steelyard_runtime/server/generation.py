"""One request in the engine's terms, and its outputs as text.

Knows nothing of chat, completions or SSE: prompts are token ids, what comes out are pieces of
text with their tokens. Stop strings are found here, and end a sequence by an abort.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.errors import EngineDeadError, RequestError
from steelyard_runtime.ipc.messages import AddRequest, Output, RemotePrefill, TokenLogprobs
from steelyard_runtime.server.engine_client import EngineClient
from steelyard_runtime.server.failures import made
from steelyard_runtime.server.mailbox import Mailbox
from steelyard_runtime.server.request_timing import RequestTiming
from steelyard_runtime.tokenization.output_text import OutputText
from steelyard_runtime.tokenization.tokenizer import Tokenizer

TEXT = "turning tokens into text"


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads the answer."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be generated; validated. Choice c of prompt p has index p * n + c."""

    request_id: str
    prompts: list[list[int]]
    n: int
    params: SamplingParams
    stop: tuple[str, ...] = ()
    include_stop_text: bool = False
    skip_special_tokens: bool = True
    cache_salt: str = ""
    resume_token_ids: list[int] = field(default_factory=list)
    remote_prefill: RemotePrefill | None = None
    export_kv: bool = False


@dataclass(slots=True)
class Piece:
    """What one step brought for one choice, as its client sees it."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str | None = None  # stop | length
    stop_reason: str | int | None = None  # the stop string or stop token id
    logits_at_ns: int = 0
    kv_transfer_params: dict[str, Any] | None = None


@dataclass(slots=True)
class _Sequence:
    index: int
    text: OutputText
    num_tokens: int
    finished: bool = False


class Generation:
    """The sequences of one job while they run. `close` must be called in the end."""

    def __init__(
        self, job: Job, engine: EngineClient, tokenizer: Tokenizer, timing: RequestTiming
    ) -> None:
        self.job = job
        self.timing = timing
        self._engine = engine
        self._tokenizer = tokenizer
        self._sequences: dict[str, _Sequence] = {}
        self._cached_tokens = [0] * len(job.prompts)
        self._mailbox: Mailbox | None = None
        self._already: list[Piece] = []
        self._client_gone = False
        self.resumed_text = ""
        self.num_unfinished = len(job.prompts) * job.n

    def start(self) -> None:
        """Send the sequences to the engine.

        Raises:
            EngineDeadError: it is gone.
            RequestError: resumed tokens cannot be turned into text.
        """
        job = self.job
        messages = []
        for index in range(self.num_unfinished):
            prompt_index, choice = divmod(index, job.n)
            text = OutputText(
                self._tokenizer,
                stop=job.stop,
                include_stop_str_in_output=job.include_stop_text,
                skip_special_tokens=job.skip_special_tokens,
                min_tokens=job.params.min_tokens,
            )
            self.resumed_text = made(TEXT, text.push, job.resume_token_ids).text
            sequence = _Sequence(index, text, len(job.resume_token_ids))
            request_id = f"{job.request_id}-{index}"
            self._sequences[request_id] = sequence
            if text.stopped is not None:
                # The client already has everything up to the stop string.
                self._already.append(
                    Piece(index, "", [], finish_reason="stop", stop_reason=text.stopped)
                )
                self._finish(sequence, "stop")
                continue
            messages.append(self._message(request_id, prompt_index, choice))
        if messages:
            self._mailbox = self._engine.add(messages)

    def _message(self, request_id: str, prompt_index: int, choice: int) -> AddRequest:
        job = self.job
        params = msgspec.structs.replace(job.params, choice_index=choice) if choice else job.params
        return AddRequest(
            request_id=request_id,
            prompt_token_ids=job.prompts[prompt_index],
            params=params,
            group_id=f"{job.request_id}-p{prompt_index}" if job.n > 1 else "",
            resume_token_ids=job.resume_token_ids,
            cache_salt=job.cache_salt,
            # One pull a prompt: the other choices find its blocks in the prefix cache.
            remote_prefill=job.remote_prefill if choice == 0 else None,
            export_kv=job.export_kv,
            arrived_at_ns=self.timing.arrived_at_ns,
        )

    async def next(self, timeout_seconds: float | None = None) -> list[Piece]:
        """Return the next pieces; an empty list after `timeout_seconds` of silence.

        Raises:
            RequestError: the engine refused or failed, or the tokens cannot be turned into text.
            EngineDeadError: the engine is gone.
            ClientGoneError: `client_gone` was called.
        """
        if self._already:
            pieces, self._already = self._already, []
            return pieces
        assert self._mailbox is not None
        try:
            outputs = await self._mailbox.take(timeout_seconds)
        except EngineDeadError:
            if self._client_gone:
                raise ClientGoneError from None
            raise
        if self._client_gone:
            raise ClientGoneError
        return made(TEXT, self._pieces, outputs)

    def client_gone(self) -> None:
        """Abort at once; the reader of `next` gets `ClientGoneError`."""
        self._client_gone = True
        self.close()
        if self._mailbox is not None:
            self._mailbox.fail()

    def close(self) -> None:
        """Abort what still runs; its blocks are free at once."""
        for request_id, sequence in self._sequences.items():
            if not sequence.finished:
                self._finish(sequence, "abort")
                self._abort(request_id)

    @property
    def has_pieces(self) -> bool:
        """Whether pieces wait that no output will bring."""
        return bool(self._already)

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens, each prompt counted once."""
        return sum(map(len, self.job.prompts))

    @property
    def num_completion_tokens(self) -> int:
        """Output tokens of all choices, resumed ones included."""
        return sum(sequence.num_tokens for sequence in self._sequences.values())

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache."""
        return sum(self._cached_tokens)

    def _pieces(self, outputs: list[Output]) -> list[Piece]:
        return [piece for output in outputs if (piece := self._piece(output)) is not None]

    def _piece(self, output: Output) -> Piece | None:
        sequence = self._sequences.get(output.request_id)
        if sequence is None or sequence.finished:
            return None
        reason = output.finish_reason
        if reason in ("error", "abort"):
            self._finish(sequence, "error")
            raise RequestError(
                output.error or "the engine gave this request up",
                status=output.error_status,
                param=output.error_param or None,
                kind="server_error" if output.error_status >= 500 else "invalid_request_error",
            )
        self._note(sequence, output)
        shown, stop_token = self._shown_tokens(output)
        stop_reason: str | int | None = stop_token
        delta = sequence.text.push(shown, final=reason is not None)
        token_ids, logprobs = output.token_ids, output.logprobs
        if delta.stop is not None:
            token_ids = (
                token_ids[: delta.num_tokens] if delta.num_tokens < len(shown) else token_ids
            )
            logprobs = logprobs[: len(token_ids)] if logprobs is not None else None
            stop_reason = delta.stop
            if reason is None:
                self._abort(output.request_id)
            reason = "stop"
        sequence.num_tokens += len(token_ids)
        if reason is not None:
            self._finish(sequence, reason)
        return Piece(
            sequence.index,
            delta.text,
            token_ids,
            logprobs,
            output.prompt_logprobs,
            reason,
            stop_reason,
            output.logits_at_ns,
            output.kv_transfer_params,
        )

    def _shown_tokens(self, output: Output) -> tuple[list[int], int | None]:
        """Leave a stop token out of the text, unless the client wants to see it."""
        ids = output.token_ids
        if output.finish_reason != "stop" or not ids:
            return ids, None
        last = ids[-1]
        reason = last if last in self.job.params.stop_token_ids else None
        return (ids if self.job.include_stop_text else ids[:-1]), reason

    def _note(self, sequence: _Sequence, output: Output) -> None:
        if sequence.num_tokens == len(self.job.resume_token_ids):
            prompt_index, choice = divmod(sequence.index, self.job.n)
            if choice == 0:
                self._cached_tokens[prompt_index] = output.num_cached_tokens
                self.timing.started(output)
        if output.token_ids:
            self.timing.tokens(sequence.index, len(output.token_ids), output.logits_at_ns)

    def _finish(self, sequence: _Sequence, reason: str) -> None:
        sequence.finished = True
        self.num_unfinished -= 1
        self.timing.finished(sequence.index, reason)

    def _abort(self, request_id: str) -> None:
        if not self._engine.is_dead:
            self._engine.abort(request_id)
