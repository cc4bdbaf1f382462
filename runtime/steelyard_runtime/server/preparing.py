"""What preparing a completion and a chat completion has in common."""

import uuid
from typing import Any

from steelyard_runtime.core.params import Grammar, check_length
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.answers import AnswerOptions
from steelyard_runtime.server.event_frames import Identity
from steelyard_runtime.server.generation import Generation, Job
from steelyard_runtime.server.protocol.generation import GenerationRequest
from steelyard_runtime.server.request_timing import RequestTiming
from steelyard_runtime.server.sampling_fields import (
    choices,
    prefill_only,
    sampling_params,
    stop_texts,
)
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.transfer_params import remote_prefill, wants_export


class Preparation:
    """Decides, for one request, what is generated and how it is answered."""

    def __init__(self, worker: Worker, body: GenerationRequest, request_id: str) -> None:
        """Check what needs no prompt.

        Raises:
            RequestError: the model is another one, or fields contradict each other.
        """
        worker.check_model(body.model)
        self.worker = worker
        self.body = body
        self.text = worker.loaded_text()
        self.timing = RequestTiming(worker.state.metrics, worker.clock_ns)
        self.export_kv = wants_export(body.kv_transfer_params)
        self.remote_prefill = remote_prefill(body.kv_transfer_params)
        self.n = 1 if self.export_kv else choices(body, worker.limits)
        self.resume_token_ids: list[int] = []
        if body.steelyard is not None and body.steelyard.resume_token_ids:
            self.resume_token_ids = body.steelyard.resume_token_ids
            self.text.check_resumed(self.resume_token_ids)
        if body.stream_options is not None and not body.stream and not self.export_kv:
            raise RequestError(
                "`stream_options` may only be set when `stream` is true", param="stream_options"
            )
        self._request_id = request_id

    def options(self, prefix: str) -> AnswerOptions:
        """Return how the client wants its answer; ids are `prefix` and the request's id."""
        body = self.body
        own = body.steelyard
        stream = bool(body.stream) and not self.export_kv
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return AnswerOptions(
            Identity(
                f"{prefix}-{self._request_id}",
                int(self.worker.clock_seconds()),
                self.worker.settings.served_model_name,
            ),
            stream=stream,
            include_usage=stream and usage,
            return_token_ids=bool(body.return_token_ids),
            timing=own is not None and bool(own.timing),
            resumed=bool(self.resume_token_ids),
        )

    def generation(
        self,
        prompts: list[list[int]],
        *,
        asked_tokens: int | None,
        default_tokens: int | None,
        logprobs: int | None,
        prompt_logprobs: int | None,
        grammar: Grammar | None,
    ) -> Generation:
        """Return the generation, not yet started.

        Raises:
            RequestError: a prompt is too long, or fields contradict each other.
        """
        worker, body = self.worker, self.body
        if grammar is not None:
            check_length(grammar)
        longest = max(map(len, prompts))
        asked = None if self.export_kv else asked_tokens
        max_tokens = self.text.max_tokens(longest, asked, 1 if self.export_kv else default_tokens)
        params = sampling_params(
            _without_bounds(body) if self.export_kv else body,
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            grammar=grammar,
            limits=worker.limits,
            draw_seed=worker.draw_bits,
        )
        job = Job(
            # Client ids may repeat; sequences of the engine may not.
            request_id=f"{self._request_id}-{uuid.uuid4().hex[:8]}",
            prompts=prompts,
            n=self.n,
            params=prefill_only(params) if self.export_kv else params,
            stop=() if self.export_kv else stop_texts(body),
            include_stop_text=bool(body.include_stop_str_in_output),
            skip_special_tokens=body.skip_special_tokens is not False,
            cache_salt=body.cache_salt or "",
            resume_token_ids=[] if self.export_kv else self.resume_token_ids,
            remote_prefill=self.remote_prefill,
            # One answer holds one `kv_transfer_params`: several prompts are only computed.
            export_kv=self.export_kv and len(prompts) == 1,
        )
        self.timing.admitted(sum(map(len, prompts)), self.n, max_tokens)
        return Generation(job, worker.state.engine, self.text.tokenizer, self.timing)

    def check_number(self, num_prompts: int) -> None:
        """Refuse more sequences than may run and wait, before any prompt is looked at.

        Raises:
            RequestError: there are too many, or the request's fields go with one alone.
        """
        number = num_prompts * self.n
        if number > 1 and self.resume_token_ids:
            raise RequestError(
                f"`steelyard.resume_token_ids` goes with one choice, got {number}",
                param="steelyard.resume_token_ids",
            )
        if num_prompts > 1 and self.remote_prefill is not None:
            raise RequestError(
                f"`kv_transfer_params` goes with one prompt, got {num_prompts}",
                param="kv_transfer_params",
            )
        settings = self.worker.settings
        at_most = settings.max_num_seqs + settings.max_waiting_requests
        if number > at_most:
            raise RequestError(
                f"prompts times `n` must be at most {at_most} on this worker, got {number}",
                param="prompt",
            )


def _without_bounds(body: GenerationRequest) -> GenerationRequest:
    """Drop what a prefill for another worker overrides, so that it cannot contradict it."""
    dropped: dict[str, Any] = {"min_tokens": None, "stop_token_ids": None}
    return body.model_copy(update=dropped)
