"""The step loop's body: messages in, one forward pass, outputs out.

Single-threaded and free of I/O, so that tests and benchmarks drive it directly; `process.py` wraps
it into a process. The scheduler decides what runs, the runner computes logits, the sampler turns
them into tokens, and the transfer threads move KV blocks meanwhile.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from torch import Tensor

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.roles import Phase, Role
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.core.sequence import Sequence, SequencePhase
from steelyard_runtime.engine.flight import Flight, Launcher, can_fly, is_plain, launch_next
from steelyard_runtime.engine.output import output
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.engine.sampling_step import sample_step
from steelyard_runtime.engine.statistics import Statistics
from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import AddRequest, Output
from steelyard_runtime.structured.grammar import GrammarCompiler
from steelyard_runtime.transfer.interface import (
    LeaseEnded,
    PullDone,
    PullFailed,
    PullSettled,
    Transfer,
)

log = logging.getLogger(__name__)


class Runner(Launcher, Protocol):
    """Runs a plan through the model."""

    def run(self, plan: StepPlan) -> Tensor:
        """Return logits (R, V) float32, rows in the plan's order."""
        ...


class Engine:
    """One model, one KV pool, one batch at a time."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: Runner,
        compiler: GrammarCompiler,
        transfer: Transfer,
        eos_token_ids: frozenset[int],
        fingerprint: str,
        clock_ns: Callable[[], int],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._compiler = compiler
        self._transfer = transfer
        self._eos_token_ids = tuple(sorted(eos_token_ids))
        self._fingerprint = fingerprint
        self._clock_ns = clock_ns
        self._live: dict[str, LiveRequest] = {}
        self._outbox: list[Output] = []
        self._flight: Flight | None = None
        self._landed_at_ns = 0
        self.ran = False  # whether the last step ran a batch; if so, the next one may too
        self.statistics = Statistics(scheduler, transfer)

    # --- messages ---------------------------------------------------------------------------------

    def add(self, message: AddRequest) -> None:
        """Start a sequence; a refusal becomes an output with `finish_reason` "error"."""
        try:
            self._add(message)
        except RequestError as error:
            if message.remote_prefill is not None:
                self._transfer.release(message.remote_prefill)
            self._outbox.append(
                Output(
                    message.request_id,
                    [],
                    finish_reason="error",
                    error=error.message,
                    error_status=error.status,
                )
            )

    def _add(self, message: AddRequest) -> None:
        params = message.params
        grammar = None
        if params.grammar is not None:
            grammar = self._compiler.compile(params.grammar)
            grammar.advance(message.resume_token_ids)
            # After the end nothing may follow, so "ignore the end" has no meaning here.
            params = msgspec.structs.replace(params, ignore_eos=False)
        sequence = Sequence(
            request_id=message.request_id,
            tokens=[*message.prompt_token_ids, *message.resume_token_ids],
            num_prompt_tokens=len(message.prompt_token_ids),
            params=params,
            group_id=message.group_id,
            cache_salt=message.cache_salt,
            export_kv=message.export_kv,
        )
        self._scheduler.add(sequence, remote=message.remote_prefill is not None)
        if message.remote_prefill is not None:
            self._transfer.hold(message.remote_prefill)
        self._live[message.request_id] = LiveRequest(
            message, sequence, grammar, is_plain=is_plain(message)
        )

    def abort(self, request_id: str) -> None:
        """Free a sequence's blocks at once; its last output says "abort"."""
        live = self._live.pop(request_id, None)
        if live is not None:
            self._drop(live)
            self._outbox.append(Output(request_id, [], finish_reason="abort"))

    def fail_all(self, message: str, status: int) -> None:
        """End every sequence with an error, so that a router replays it elsewhere."""
        for request_id, live in list(self._live.items()):
            del self._live[request_id]
            self._drop(live)
            self._outbox.append(
                Output(request_id, [], finish_reason="error", error=message, error_status=status)
            )

    def end_leases(self) -> None:
        """Take exported blocks back; the decode workers that want them recompute."""
        self._transfer.end_leases()

    def _drop(self, live: LiveRequest) -> None:
        aborted = self._scheduler.abort(live.sequence.request_id)
        if aborted is None:
            return
        if aborted.cancel_pull:
            self._transfer.cancel(live.sequence.request_id)
        elif aborted.release_remote and live.message.remote_prefill is not None:
            self._transfer.release(live.message.remote_prefill)

    # --- roles ------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """The role in force."""
        return self._scheduler.role

    @property
    def in_flight(self) -> int:
        """Running, waiting and landing sequences, and leases."""
        return self._scheduler.in_flight

    @property
    def phase(self) -> Phase:
        """Ready, draining or drained."""
        if not self._scheduler.draining:
            return Phase.READY
        return Phase.DRAINING if self.in_flight else Phase.DRAINED

    def drain(self) -> None:
        """Refuse new sequences; those in flight go on."""
        self._scheduler.drain()

    def set_role(self, role: Role) -> None:
        """Take a role and accept sequences again. Weights, KV pool and listeners stay.

        Raises:
            RequestError: another role was asked for while sequences are in flight (409).
        """
        if role is not self.role and (self.phase is not Phase.DRAINED):
            raise RequestError(
                f"`role` may not change to '{role}' in phase '{self.phase}' with {self.in_flight} "
                "in flight; POST /drain first and wait for phase 'drained'",
                status=409,
                param="role",
                code="not_drained",
            )
        self._scheduler.set_role(role)
        self._scheduler.resume()

    def reset_prefix_cache(self) -> None:
        """Forget cached blocks that no sequence holds."""
        self._scheduler.reset_prefix_cache()

    # --- one step ---------------------------------------------------------------------------------

    def step(self) -> list[Output]:
        """Run one step; return what it brought, with refusals and aborts since the last one."""
        self._take_transfer_events()
        if self._flight is not None:
            self._land(self._flight)
        else:
            plan = self._scheduler.schedule()
            self._start_pulls(plan)
            self.ran = bool(plan.scheduled)
            if plan.scheduled:
                self._run(plan)
        outputs, self._outbox = self._outbox, []
        return outputs

    @property
    def awaits_event(self) -> bool:
        """Whether work waits for an event of the transfer threads, not for a message."""
        return self.in_flight > 0

    def _take_transfer_events(self) -> None:
        for event in self._transfer.events():
            match event:
                case PullDone():
                    self._scheduler.landed(event.request_id)
                case PullFailed():
                    self._pull_failed(event)
                case PullSettled():
                    self._scheduler.settle(event.request_id)
                case LeaseEnded():
                    self._scheduler.end_lease(event.request_id)

    def _pull_failed(self, event: PullFailed) -> None:
        fields = {
            "request_id": event.request_id,
            "reason": event.reason,
            "detail": event.message,
        }
        log.info("pull failed", extra={"fields": fields})
        if self._scheduler.landing_failed(event.request_id):
            self.statistics.local_recomputes += 1

    def _start_pulls(self, plan: StepPlan) -> None:
        for pull in plan.pulls:
            remote = self._live[pull.sequence.request_id].message.remote_prefill
            if remote is None:
                continue
            self._transfer.pull(
                pull.sequence.request_id,
                remote,
                pull.first_block,
                pull.block_ids,
                pull.sequence.num_prompt_tokens,
            )

    def _run(self, plan: StepPlan) -> None:
        started_at_ns = self._clock_ns()
        if self._runner.runs_ahead and can_fly(plan, self._live):
            # Its tokens are read in the next step, after the launch of the one that follows.
            self._flight = Flight(plan, self._runner.launch(plan, None), started_at_ns)
            return
        logits = self._runner.run(plan)
        logits_at_ns = self._clock_ns()
        sampled = sample_step(plan, logits, self._live, self._eos_token_ids, started_at_ns)
        before = {item.sequence.request_id: item.sequence.num_tokens for item in plan.scheduled}
        self._scheduler.commit(plan, {key: [token] for key, (token, _) in sampled.items()})
        for item in plan.scheduled:
            request_id = item.sequence.request_id
            if request_id in sampled:
                self._emit(item.sequence, before[request_id], sampled[request_id][1], logits_at_ns)
        self.statistics.observe_step(plan, started_at_ns, logits_at_ns, self._clock_ns())

    def _land(self, flight: Flight) -> None:
        """Launch the step after a flight, then take in what the flight brought."""
        self._flight = launch_next(flight, self._scheduler, self._runner, self._clock_ns())
        tokens = flight.pending.tokens()
        landed_at_ns = self._clock_ns()
        landed: list[tuple[Sequence, int, int]] = []
        for item, token in zip(flight.plan.scheduled, tokens, strict=True):
            if item.sequence.phase is SequencePhase.RUNNING:
                landed.append((item.sequence, item.start + 1, token))
                live = self._live[item.sequence.request_id]
                live.scheduled_at_ns = live.scheduled_at_ns or flight.launched_at_ns
        self._scheduler.commit(flight.plan, {s.request_id: [token] for s, _, token in landed})
        for sequence, first_new, _ in landed:
            self._emit(sequence, first_new, None, landed_at_ns)
        started_at_ns = max(flight.launched_at_ns, self._landed_at_ns)
        self._landed_at_ns = landed_at_ns
        self.statistics.observe_step(flight.plan, started_at_ns, landed_at_ns, self._clock_ns())

    def _emit(
        self, sequence: Sequence, first_new: int, raw_logits: Tensor | None, logits_at_ns: int
    ) -> None:
        live = self._live[sequence.request_id]
        finished = sequence.finish_reason
        kv_params: dict[str, Any] | None = None
        if finished is not None:
            del self._live[sequence.request_id]
            if sequence.export_kv:
                kv_params = self._transfer.export(
                    sequence.request_id,
                    self._scheduler.blocks.leased(sequence.request_id),
                    sequence.num_prompt_tokens,
                )
                kv_params.setdefault("steelyard", {})["fingerprint"] = self._fingerprint
        self._outbox.append(
            output(live, first_new, raw_logits, logits_at_ns=logits_at_ns, kv_params=kv_params)
        )
