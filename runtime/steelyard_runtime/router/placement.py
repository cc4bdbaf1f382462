"""Which worker decodes, whether a remote prefill pays, and which worker prefills. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steelyard_runtime.router.scoring import Candidate, Score, score

Decision = Literal["remote", "short", "warm", "no_prefill_worker", "unsuitable"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the router knows of a request's prompt."""

    tokens: int  # estimated
    # False: several prompts in one request or log probabilities of the prompt, which one
    # `kv_transfer_params` cannot serve.
    transferable: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes and why; the scores are kept for `GET /router/workers`."""

    decode: Candidate
    prefill: Candidate | None
    decision: Decision
    decode_scores: list[Score]
    prefill_scores: list[Score]


def decode_capable(role: str) -> bool:
    """Whether workers of this role take requests that decode."""
    return role in ("decode", "both")


def prefill_partners(decode: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the workers that could prefill for `decode`.

    The KV layouts must be the same, so the fingerprints must be equal (two unknown ones, say of
    two vLLM workers, count as equal). Between two workers that do both, a hand-over only adds work.
    """
    roles = ("prefill",) if decode.role != "decode" else ("prefill", "both")
    return [
        one
        for one in candidates
        if one.role in roles
        and one.worker_id != decode.worker_id
        and one.fingerprint == decode.fingerprint
    ]


def place(
    prompt: Prompt, candidates: Sequence[Candidate], *, min_remote_prefill_tokens: int
) -> Placement | None:
    """Place one request on healthy workers; None where no worker decodes."""
    decoders = [one for one in candidates if decode_capable(one.role)]
    if not decoders:
        return None
    pairable = frozenset(one.fingerprint for one in candidates if one.role == "prefill")
    decode_scores = score(decoders, pairable)
    decode = decode_scores[0].candidate
    prefill_scores: list[Score] = []
    decision: Decision
    if not prompt.transferable:
        decision = "unsuitable"
    elif prompt.tokens < min_remote_prefill_tokens:
        decision = "short"
    elif prompt.tokens - min(decode.warm_tokens, prompt.tokens) < min_remote_prefill_tokens:
        decision = "warm"
    else:
        prefill_scores = score(prefill_partners(decode, candidates), frozenset())
        decision = "remote" if prefill_scores else "no_prefill_worker"
    return Placement(
        decode=decode,
        prefill=prefill_scores[0].candidate if prefill_scores else None,
        decision=decision,
        decode_scores=decode_scores,
        prefill_scores=prefill_scores,
    )


def place_anywhere(candidates: Sequence[Candidate]) -> Placement | None:
    """Place a request on a worker of any role: the last resort while none decodes."""
    scores = score(candidates, frozenset())
    if not scores:
        return None
    return Placement(scores[0].candidate, None, "no_prefill_worker", scores, [])
