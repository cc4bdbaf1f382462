"""The messages between the HTTP process and the engine process.

msgspec structs, tagged by `type`, one message a frame. The HTTP process owns text (templates,
tokenising, detokenising, stop strings); the engine knows token ids only. Times are nanoseconds
of CLOCK_MONOTONIC, which all processes of one machine share.
"""

from typing import Any, Literal

import msgspec

from steelyard_runtime.core.params import SamplingParams

type_tag = "type"


class RemotePrefill(msgspec.Struct, frozen=True):
    """Where the prompt's KV blocks are: `kv_transfer_params` of a prefill worker's answer."""

    engine_id: str
    request_id: str
    host: str
    port: int
    block_ids: list[list[int]]  # per KV group, in prompt order
    num_tokens: int | None = None  # prompt tokens that the blocks hold
    fingerprint: str | None = None


# --- HTTP process -> engine ---------------------------------------------------------------------


class AddRequest(msgspec.Struct, frozen=True, tag="add", tag_field=type_tag, omit_defaults=True):
    """Start one sequence. Several with the same `group_id` share a prompt (n > 1)."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    group_id: str = ""
    # Output tokens that were already sent to the client by a worker that died or drained.
    resume_token_ids: list[int] = []
    cache_salt: str = ""
    remote_prefill: RemotePrefill | None = None  # pull the prompt's KV (`do_remote_prefill`)
    export_kv: bool = False  # keep the prompt's KV under a lease (`do_remote_decode`)
    arrived_at_ns: int = 0


class Abort(msgspec.Struct, frozen=True, tag="abort", tag_field=type_tag):
    """The client is gone, or a stop string matched: free the sequence's blocks at once."""

    request_id: str


class Call(msgspec.Struct, frozen=True, tag="call", tag_field=type_tag):
    """A request-reply on the control plane.

    `state` returns the engine's state, `drain` stops admission, `role` changes the role and
    resumes, `reset_prefix_cache` forgets unreferenced cached blocks.
    """

    call_id: int
    method: Literal["state", "drain", "role", "reset_prefix_cache"]
    arguments: dict[str, Any] = {}


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown", tag_field=type_tag):
    """End the process; whatever still runs is dropped."""


ToEngine = AddRequest | Abort | Call | Shutdown


# --- engine -> HTTP process ---------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, tag="progress", tag_field=type_tag):
    """How far the start is; `percent` is of this stage."""

    stage: Literal["load", "warmup"]
    percent: int


class Ready(msgspec.Struct, frozen=True, tag="ready", tag_field=type_tag):
    """The engine takes requests."""

    engine_id: str
    fingerprint: str
    max_model_len: int
    vocab_size: int
    block_size: int
    num_blocks: int
    kv_port: int
    device: str
    dtype: str


class Failed(msgspec.Struct, frozen=True, tag="failed", tag_field=type_tag):
    """The start failed; `message` is one sentence for the user. The process exits after it.

    `wrong_input` tells a wrong checkpoint or flag from a fault of ours: the exit code comes too
    late for that, because ending takes seconds with a loaded model.
    """

    message: str
    wrong_input: bool = False


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities at one position; `top` is sorted, most likely first."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step brought for one sequence.

    The last output of a sequence carries `finish_reason`: `stop` (end of sequence or a stop
    token id), `length`, `abort`, or `error` with a sentence in `error`.
    """

    request_id: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None  # one per token id
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # first output only
    finish_reason: Literal["stop", "length", "abort", "error"] | None = None
    error: str = ""
    error_status: int = 500
    error_param: str = ""  # the request's field, where one is to blame
    # On the first output.
    num_cached_tokens: int = 0  # prompt tokens from the local prefix cache
    num_remote_tokens: int = 0  # prompt tokens pulled from a prefill worker
    scheduled_at_ns: int = 0
    logits_at_ns: int = 0  # when the logits of the newest token were ready
    # On the last output of a sequence with `export_kv`.
    kv_transfer_params: dict[str, Any] | None = None


class EngineStats(msgspec.Struct, frozen=True):
    """Gauges (now), counters (since the start) and observations (since the last message).

    Keys are Prometheus sample names without labels, or `name{label="value"}`.
    """

    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    observations: dict[str, list[float]] = {}


class Outputs(msgspec.Struct, frozen=True, tag="outputs", tag_field=type_tag, omit_defaults=True):
    """Everything that one step brought, and fresh stats at most every 100 ms."""

    items: list[Output] = []
    stats: EngineStats | None = None


class Reply(msgspec.Struct, frozen=True, tag="reply", tag_field=type_tag):
    """The answer to a `Call`; exactly one of `result` and `error` is meaningful."""

    call_id: int
    result: dict[str, Any] = {}
    error: str = ""
    error_status: int = 0


FromEngine = Progress | Ready | Failed | Outputs | Reply
