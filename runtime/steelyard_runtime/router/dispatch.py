"""Where a request goes next: placement against the live pool, waiting, and the prefill leg.

`placement.py` decides; this module waits for workers, counts decisions and asks the prefill
worker. A prefill that fails in any way only means that the decode worker does it itself.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.affinity import PrefixMemory
from steelyard_runtime.router.blame import Blame, patience_seconds
from steelyard_runtime.router.call import Call, prefill_body
from steelyard_runtime.router.metrics import RouterMetrics
from steelyard_runtime.router.placement import Placement, place, place_anywhere
from steelyard_runtime.router.pool import Worker, WorkerPool
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.sweeper import Sweeper, Wait
from steelyard_runtime.router.transcript import token_count
from steelyard_runtime.router.upstream import (
    Upstream,
    WorkerBusyError,
    WorkerFailedError,
    WorkerRefusedError,
)

# The block ids of the longest prompt are some hundred KiB.
_MOST_PREFILL_BYTES = 4 * 1024**2
_BUSY_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Target:
    """The workers of one attempt."""

    decode: Worker
    prefill: Worker | None


def _busy(call: Call) -> RequestError:
    return RequestError(
        "All workers are busy; retry later.",
        status=429,
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        retry_after_seconds=call.retry_after_seconds,
    )


def none_came(queue_timeout_seconds: float) -> RequestError:
    """Return the refusal of a request that no worker took in time."""
    return RequestError(
        f"No worker was ready within {queue_timeout_seconds:g} s.",
        status=503,
        code="no_worker",
        kind="server_error",
        retry_after_seconds=1,
    )


class Dispatcher:
    """Places calls on workers."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        pool: WorkerPool,
        memory: PrefixMemory,
        metrics: RouterMetrics,
        upstream: Upstream,
        sweeper: Sweeper,
        blame: Blame,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._memory = memory
        self._metrics = metrics
        self._upstream = upstream
        self._sweeper = sweeper
        self._blame = blame
        self.last_placement: Placement | None = None  # for `GET /router/workers`

    async def next_target(self, call: Call) -> Target:
        """Choose workers for the call's next attempt; waits while none is there or takes it.

        Raises:
            RequestError: 429 where all that could serve are busy, 503 where none appeared.
        """
        clock = asyncio.get_running_loop().time
        refused_since = call.refused_since_seconds
        started_seconds = clock() if refused_since is None else refused_since
        while True:
            waited_seconds = clock() - started_seconds
            remaining = self._settings.queue_timeout_seconds - waited_seconds
            placement = self._place(call, waited_seconds)
            if placement is not None and (remaining > 0 or refused_since is None):
                return self._take(call, placement)
            if call.busy_on and (not call.committed or remaining <= 0):
                raise _busy(call)
            if call.busy_on:
                # The client has its status already and cannot come again: it waits here.
                await asyncio.sleep(min(remaining, _BUSY_PAUSE_SECONDS))
                call.busy_on.clear()
                continue
            if remaining <= 0:
                raise none_came(self._settings.queue_timeout_seconds)
            until_resort = self._settings.last_resort_seconds - waited_seconds
            until_shared = patience_seconds(call) - waited_seconds
            pause = min(one for one in (remaining, until_resort, until_shared) if one > 0)
            await self._pool.wait_for_change(pause + 0.001)

    def _place(self, call: Call, waited_seconds: float) -> Placement | None:
        taken: set[str] = set()
        if waited_seconds < patience_seconds(call):
            taken = {worker.id for worker in self._pool.workers if worker.suspects}
        for avoided in (call.busy_on | call.failed_on, call.busy_on):
            candidates = self._pool.candidates(
                call.hashes, call.tokens_per_chunk, frozenset(avoided | taken)
            )
            placement = place(
                call.prompt,
                candidates,
                min_remote_prefill_tokens=self._settings.min_remote_prefill_tokens,
            )
            if placement is not None:
                return placement
        if call.busy_on or waited_seconds < self._settings.last_resort_seconds:
            return None
        return place_anywhere(candidates)

    def _take(self, call: Call, placement: Placement) -> Target:
        self.last_placement = placement
        if not call.decision:
            call.decision = placement.decision
            self._metrics.prefill_decisions.labels(placement.decision).inc()
        decode = self._pool.get(placement.decode.worker_id)
        prefill = placement.prefill and self._pool.get(placement.prefill.worker_id)
        assert decode is not None  # Candidates were made from the pool in this very step.
        self._pool.picked(decode)
        call.worker_id = decode.id
        return Target(decode, prefill or None)

    async def prefill(self, call: Call, worker: Worker) -> dict[str, Any] | None:
        """Prefill the call's prompt on `worker`.

        Returns:
            The `kv_transfer_params` for the decode worker, None where it has to prefill itself.

        Raises:
            RequestError: 502, it is what workers die of.
        """
        self._pool.picked(worker)
        try:
            with self._blame.attempt(call, worker):
                return await self._ask_prefill(call, worker)
        except TimeoutError:
            reason = "timeout"
        except WorkerFailedError as error:
            reason = error.reason
        except WorkerBusyError:
            reason = "busy"
        except WorkerRefusedError as error:
            reason = f"status_{error.status}"
        except (ValueError, KeyError, TypeError, AttributeError):
            reason = "bad_answer"
        self._metrics.prefill_fallbacks.labels(reason).inc()
        await self._blame.weigh(call)
        return None

    async def _ask_prefill(self, call: Call, worker: Worker) -> dict[str, Any]:
        body = orjson.dumps(prefill_body(call.body))
        limit = self._settings.prefill_timeout_seconds
        async with (
            Wait(self._sweeper, worker, limit),
            self._upstream.post(worker, call.path, body, call.headers) as answer,
        ):
            document = orjson.loads(await answer.read(_MOST_PREFILL_BYTES))
        params = document["kv_transfer_params"]
        if not isinstance(params, dict) or not params.get("do_remote_prefill"):
            raise TypeError
        orjson.dumps({"kv_transfer_params": params})  # It goes on, so it must not be too deep.
        usage = document.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        tokens = token_count(usage.get("prompt_tokens") or 0)
        cached = token_count(details.get("cached_tokens") or 0)
        if tokens is None or cached is None:
            raise TypeError
        call.prefilled_tokens, call.cached_tokens = tokens, min(cached, tokens)
        self._memory.remember(worker.id, call.hashes)
        return params
