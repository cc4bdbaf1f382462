"""One client request on its way through the router: what is known of it and what was tried."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.affinity import (
    CHUNK_CHARACTERS,
    CHUNK_TOKENS,
    TokenEstimator,
    chain_hashes,
    only_prompt,
    rendered_text,
    text_chunks,
    token_chunks,
    token_prompt,
)
from steelyard_runtime.router.client_stream import ClientStream
from steelyard_runtime.router.placement import Prompt
from steelyard_runtime.router.pool import Worker
from steelyard_runtime.router.validation import CheckedBody

_DEEPEST = 250  # levels: orjson writes 254, and the router adds some of its own


@dataclass(frozen=True, slots=True, eq=False)
class Death:
    """A worker whose connection broke under a call before the call's first token."""

    gone: asyncio.Future[bool]  # whether its process is gone or restarting
    alone: bool  # no other suspect was there


@dataclass(slots=True, eq=False)
class Call:
    """A checked request. `body` already has the seed that makes replays repeat."""

    request_id: str
    path: str
    checked: CheckedBody
    body: dict[str, Any]
    headers: dict[str, str]  # to workers
    prompt: Prompt
    characters: int  # of the rendered prompt; 0 where the tokens are known
    hashes: Sequence[int]
    tokens_per_chunk: float
    arrived_seconds: float
    failures: int = 0  # workers that failed under it
    refused_since_seconds: float | None = None  # no engine has taken it since; None: one has
    failed_on: set[str] = field(default_factory=set)  # avoided while there are others
    deaths: list[Death] = field(default_factory=list)
    suspect_at: Worker | None = None  # where it is tried alone (`blame.py`)
    busy_on: set[str] = field(default_factory=set)  # answered 429
    retry_after_seconds: int = 1
    decision: str = ""  # of its first placement
    worker_id: str = ""  # the one that decodes, for the log
    first_token_seconds: float | None = None
    input_tokens: int = 0  # as the worker counted them, once it has said so
    output_tokens: int = 0  # of the whole answer, once it is there
    prefilled_tokens: int = 0  # of its prompt, as a prefill worker counted them
    cached_tokens: int = 0  # of those, what that worker had in its prefix cache
    client: ClientStream | None = None  # of a request that streams

    def decode_fields(self) -> dict[str, Any]:
        """Return the body for a decode worker.

        One whose cache is trusted is asked for the usage, which says how much was there.
        """
        fields = dict(self.body)
        if self.decision == "warm" and fields.get("stream"):
            options = fields.get("stream_options") or {}
            fields["stream_options"] = {**options, "include_usage": True}
        return fields

    @property
    def suspected(self) -> bool:
        """Whether a worker may have died of it."""
        return any(not death.gone.done() or death.gone.result() for death in self.deaths)

    @property
    def committed(self) -> bool:
        """Whether the client has its status already: it cannot be told to come again."""
        return self.client is not None and self.client.opened


def encoded(fields: dict[str, Any]) -> bytes:
    """Return a body for a worker.

    Raises:
        RequestError: 400, it is nested more deeply than the encoder follows.
    """
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        raise RequestError(
            f"The body must not be nested more than {_DEEPEST} levels deep.", code="too_deep"
        ) from None


def make_call(
    checked: CheckedBody,
    *,
    request_id: str,
    path: str,
    headers: dict[str, str],
    estimator: TokenEstimator,
    arrived_seconds: float,
) -> Call:
    """Draw the seed and estimate the prompt.

    Raises:
        RequestError: 400, the body is nested too deeply.
    """
    body = checked.fields
    if body.get("seed") is None:
        body["seed"] = secrets.randbits(63)
    salt = body.get("cache_salt")
    salt = salt if isinstance(salt, str) else ""
    tokens = token_prompt(body)
    if tokens is not None:
        characters, count = 0, len(tokens)
        hashes = chain_hashes(token_chunks(tokens), salt)
        tokens_per_chunk = float(CHUNK_TOKENS)
    else:
        try:
            text = rendered_text(body)
        except orjson.JSONEncodeError:
            encoded(body)  # It is the same that is wrong with all of it.
            raise
        characters, count = len(text), estimator.estimate(len(text))
        hashes = chain_hashes(text_chunks(text), salt)
        tokens_per_chunk = CHUNK_CHARACTERS / estimator.characters_per_token
    return Call(
        request_id=request_id,
        path=path,
        checked=checked,
        body=body,
        headers=headers,
        prompt=Prompt(count, transferable=_transferable(checked)),
        characters=characters,
        hashes=hashes,
        tokens_per_chunk=tokens_per_chunk,
        arrived_seconds=arrived_seconds,
    )


def _transferable(checked: CheckedBody) -> bool:
    body = checked.fields
    prompt = only_prompt(body)
    several = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
    return not several and not (body.get("echo") and body.get("logprobs") is not None)


# Fields that a prefill has no use for: it makes one token that nobody sees.
_DECODE_ONLY_FIELDS = (
    "best_of", "echo", "logprobs", "max_completion_tokens", "min_tokens", "n", "response_format",
    "return_token_ids", "steelyard", "stop", "stop_token_ids", "stream_options", "top_logprobs",
)  # fmt: skip


def prefill_body(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of the prefill leg: vLLM's exchange (docs/contract.md, section 2)."""
    fields = {name: value for name, value in body.items() if name not in _DECODE_ONLY_FIELDS}
    fields["stream"] = False
    fields["max_tokens"] = 1
    if "max_completion_tokens" in body:
        fields["max_completion_tokens"] = 1
    fields["kv_transfer_params"] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    return fields
