"""The step loop's body: messages in, one forward pass, outputs out.

Single-threaded and free of I/O, so that tests and benchmarks drive it directly; `process.py` wraps
it into a process. The scheduler decides what runs, the runner computes logits, the sampler turns
them into tokens, and the transfer threads move KV blocks meanwhile.

Whatever one sequence raises ends that sequence (docs/adr/0017-what-ends-a-sequence.md).
"""

import logging
from collections.abc import Callable

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.roles import Phase, Role
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.core.sequence import Sequence, SequencePhase
from steelyard_runtime.engine.flight import (
    Flight,
    Pending,
    Runner,
    can_fly,
    launch_first,
    launch_next,
    wait_for_tokens,
)
from steelyard_runtime.engine.forward import run_forward
from steelyard_runtime.engine.live_requests import LiveRequests
from steelyard_runtime.engine.sampling_step import sample_step
from steelyard_runtime.engine.statistics import Statistics
from steelyard_runtime.errors import ENDS_PROCESS, RequestError
from steelyard_runtime.ipc.messages import AddRequest, Output
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.transfer.interface import (
    LeaseEnded,
    PullDone,
    PullFailed,
    PullSettled,
    Transfer,
    TransferEvent,
)

log = logging.getLogger(__name__)


class Engine:
    """One model, one KV pool, one batch at a time."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: Runner,
        grammars: GrammarService,
        transfer: Transfer,
        eos_token_ids: frozenset[int],
        vocab_size: int,
        fingerprint: str,
        clock_ns: Callable[[], int],
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._transfer = transfer
        # A tokenizer, or a damaged file, may name ends that the model has no logits for.
        self._eos_token_ids = tuple(sorted(i for i in eos_token_ids if 0 <= i < vocab_size))
        self._clock_ns = clock_ns
        self._flight: Flight | None = None
        self._landed_at_ns = 0
        self.ran = False  # whether the last step ran a batch; if so, the next one may too
        self.statistics = Statistics(scheduler, transfer, grammars)
        self._requests = LiveRequests(
            scheduler,
            grammars,
            transfer,
            self.statistics,
            vocab_size=vocab_size,
            fingerprint=fingerprint,
        )

    # --- messages ---------------------------------------------------------------------------------

    def add(self, message: AddRequest) -> None:
        """Start a sequence; a refusal becomes an output with `finish_reason` "error"."""
        self._requests.add(message)

    def abort(self, request_id: str) -> None:
        """Free a sequence's blocks at once; its last output says "abort"."""
        self._requests.abort(request_id)

    def fail_all(self, message: str, status: int) -> None:
        """End every sequence with an error, so that a router replays it elsewhere."""
        self._requests.fail_all(message, status)

    def end_leases(self) -> None:
        """Take exported blocks back; the decode workers that want them recompute."""
        self._transfer.end_leases()

    # --- roles ------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """The role in force."""
        return self._scheduler.role

    @property
    def in_flight(self) -> int:
        """Running, waiting and landing sequences, those that wait for a grammar, and leases."""
        return self._scheduler.in_flight + len(self._requests.grammars)

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
        self._requests.take_grammars()
        flight, self._flight = self._flight, None
        if flight is not None and flight.pending is not None:
            self._land(flight, flight.pending)
        elif flight is not None:
            self._run_and_wait(flight.plan)
        else:
            for request_id, error in self._requests.grammars.hold_back().items():
                self._requests.fail(request_id, "grammar", error)
            plan = self._scheduler.schedule()
            for sequence in plan.failed:
                self._requests.fail_scheduled(sequence, "schedule")
            self._start_pulls(plan)
            self.ran = bool(plan.scheduled)
            if plan.scheduled:
                self._run(plan)
        return self._requests.take_outputs()

    @property
    def awaits_event(self) -> bool:
        """Whether work waits for an event of other threads, not for a message."""
        return self.in_flight > 0

    def _take_transfer_events(self) -> None:
        for event in self._transfer.events():
            try:
                self._take_transfer_event(event)
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                self._requests.fail(event.request_id, "transfer", error)

    def _take_transfer_event(self, event: TransferEvent) -> None:
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
            remote = self._requests.live[pull.sequence.request_id].message.remote_prefill
            if remote is None:
                continue
            try:
                self._transfer.pull(
                    pull.sequence.request_id,
                    remote,
                    pull.first_block,
                    pull.block_ids,
                    pull.sequence.num_prompt_tokens,
                )
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                self._requests.fail(pull.sequence.request_id, "transfer", error)
                self._scheduler.settle(pull.sequence.request_id)  # nothing was begun
                self._requests.release(remote)

    def _run(self, plan: StepPlan) -> None:
        if self._runner.runs_ahead and can_fly(plan, self._requests.live):
            # Its tokens are read in the next step, after the launch of the one that follows.
            self._flight = launch_first(plan, self._runner, self._clock_ns())
            if self._flight is not None:
                return
        self._run_and_wait(plan)

    def _run_and_wait(self, plan: StepPlan) -> None:
        started_at_ns = self._clock_ns()
        # A step whose launch ahead failed may have sequences that have ended since.
        running = [each for each in plan.scheduled if each.sequence.phase is SequencePhase.RUNNING]
        if not running:
            self._scheduler.commit(plan, {})
            return
        ran, logits, failures = run_forward(self._runner, StepPlan(running))
        logits_at_ns = self._clock_ns()
        sampled = sample_step(ran, logits, self._requests.live, self._eos_token_ids, started_at_ns)
        for request_id, failure in (failures | sampled.failures).items():
            self._requests.fail(request_id, failure.stage, failure.error)
        before = {item.sequence.request_id: item.sequence.num_tokens for item in ran.scheduled}
        tokens = sampled.tokens
        self._commit(plan, {key: [token] for key, (token, _) in tokens.items()})
        for item in ran.scheduled:
            request_id = item.sequence.request_id
            if request_id in tokens:
                self._requests.emit(
                    item.sequence, before[request_id], tokens[request_id][1], logits_at_ns
                )
        self.statistics.observe_step(plan, started_at_ns, logits_at_ns, self._clock_ns())

    def _commit(self, plan: StepPlan, tokens: dict[str, list[int]]) -> None:
        for sequence in self._scheduler.commit(plan, tokens):
            if sequence.error is not None:
                self._requests.fail_scheduled(sequence, "commit")

    def _land(self, flight: Flight, pending: Pending) -> None:
        """Launch the step after a flight, then take in what the flight brought."""
        self._flight = launch_next(
            flight.plan, pending, self._scheduler, self._runner, self._clock_ns()
        )
        tokens = wait_for_tokens(flight.plan, pending, self._runner)
        landed_at_ns = self._clock_ns()
        landed: list[tuple[Sequence, int, int]] = []
        for item, token in zip(flight.plan.scheduled, tokens, strict=True):
            if item.sequence.phase is not SequencePhase.RUNNING:
                continue
            live = self._requests.live[item.sequence.request_id]
            live.scheduled_at_ns = live.scheduled_at_ns or flight.launched_at_ns
            if isinstance(token, BaseException):
                self._requests.fail(item.sequence.request_id, "forward", token)
            else:
                landed.append((item.sequence, item.start + 1, token))
        self._commit(flight.plan, {s.request_id: [token] for s, _, token in landed})
        for sequence, first_new, _ in landed:
            self._requests.emit(sequence, first_new, None, landed_at_ns)
        started_at_ns = max(flight.launched_at_ns, self._landed_at_ns)
        self._landed_at_ns = landed_at_ns
        self.statistics.observe_step(flight.plan, started_at_ns, landed_at_ns, self._clock_ns())
