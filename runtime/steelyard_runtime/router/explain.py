"""`GET /router/workers`: what the router knows of each worker and why it chose as it did. Pure."""

from typing import Any

from steelyard_runtime.router.affinity import PrefixMemory
from steelyard_runtime.router.placement import Placement
from steelyard_runtime.router.pool import WorkerPool
from steelyard_runtime.router.scoring import Score


def explain(pool: WorkerPool, memory: PrefixMemory, placement: Placement | None) -> dict[str, Any]:
    """Return the document: workers, and the last placement with the terms of its scores."""
    decode = {one.candidate.worker_id: one for one in placement.decode_scores} if placement else {}
    prefill = (
        {one.candidate.worker_id: one for one in placement.prefill_scores} if placement else {}
    )
    workers = [
        {
            "id": worker.id,
            "url": worker.url,
            "role": worker.role,
            "phase": worker.phase,
            "fingerprint": worker.fingerprint,
            "healthy": worker.routable,
            "ejected": worker.ejected_because or None,
            "inFlight": worker.in_flight,
            "consecutiveFailures": worker.consecutive_failures,
            "rememberedChunks": memory.size(worker.id),
            "lastScores": {
                "decode": _terms(decode.get(worker.id)),
                "prefill": _terms(prefill.get(worker.id)),
            },
        }
        for worker in pool.workers
    ]
    last = placement and {
        "decode": placement.decode.worker_id,
        "prefill": placement.prefill.worker_id if placement.prefill else None,
        "decision": placement.decision,
    }
    return {"workers": workers, "lastPlacement": last}


def _terms(score: Score | None) -> dict[str, float] | None:
    if score is None:
        return None
    return {
        "total": round(score.total, 4),
        "load": round(score.load, 4),
        "affinity": round(score.affinity, 4),
        "fingerprint": score.fingerprint,
        "health": score.health,
        "warmTokens": score.candidate.warm_tokens,
    }
