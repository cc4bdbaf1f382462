"""A scheduler with a simulated KV memory, so that tests see what a forward pass would read."""

from collections.abc import Callable

import pytest

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import Aborted, SchedulerConfig
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.roles import Role
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.core.sequence import Sequence, SequencePhase

EOS = 0


def kv_of(sequence: Sequence, position: int) -> object:
    """Return what the KV at a position depends on: all tokens up to it, and the salt."""
    return (sequence.cache_salt, tuple(sequence.tokens[: position + 1]))


def never_eos(tokens: list[int]) -> int:
    """Sample a token that depends on all tokens before it."""
    return 1 + (sum(tokens) * 31 + len(tokens)) % 97


class Rig:
    """A scheduler, its blocks, and a memory that each step reads, checks and writes."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 4,
        budget: int = 16,
        max_waiting: int = 100,
        max_model_len: int = 1000,
        prefix_caching: bool = True,
        role: Role = Role.BOTH,
        sample: Callable[[list[int]], int] = never_eos,
    ) -> None:
        self.blocks = BlockManager(num_blocks)
        self.block_size = block_size
        self.budget = budget
        self.scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=budget,
                max_waiting_requests=max_waiting,
                block_size=block_size,
                max_model_len=max_model_len,
                prefix_caching=prefix_caching,
                role=role,
                eos_token_ids=frozenset([EOS]),
                fingerprint="model",
            ),
            self.blocks,
        )
        self.sample = sample
        self.memory: dict[tuple[int, int], object] = {}
        self.finished: dict[str, Sequence] = {}
        self.landing: dict[str, tuple[Sequence, tuple[int, ...], int]] = {}
        self.failed: dict[str, tuple[int, ...]] = {}
        self.leases: dict[str, list[tuple[tuple[int, int], object]]] = {}

    def add(
        self,
        request_id: str,
        prompt: list[int],
        *,
        resume: list[int] | None = None,
        remote: bool = False,
        group_id: str = "",
        cache_salt: str = "",
        export_kv: bool = False,
        max_tokens: int = 4,
        **params: object,
    ) -> Sequence:
        """Queue a sequence."""
        sequence = Sequence(
            request_id,
            prompt + (resume or []),
            len(prompt),
            SamplingParams(max_tokens=max_tokens, **params),
            group_id=group_id,
            cache_salt=cache_salt,
            export_kv=export_kv,
        )
        self.scheduler.add(sequence, remote=remote)
        return sequence

    def step(self, during: Callable[[], object] = lambda: None) -> StepPlan:
        """Schedule, run the forward pass on the simulated memory, call `during`, commit."""
        plan, sampled = self._begin()
        during()
        self._commit(plan, sampled)
        return plan

    def step_ahead(self, between: Callable[[], object] = lambda: None) -> bool:
        """Plan a second step before the first is committed; returns whether that was possible.

        The second one writes as late as it may: after the commit of the first, and after `between`.
        """
        plan, sampled = self._begin()
        exports = any(sequence.export_kv for sequence in plan_sequences(plan))
        following = None if exports or not plan.scheduled else self.scheduler.ahead(plan)
        writes = []
        for item in following.scheduled if following else ():
            sequence = item.sequence
            tokens = [*sequence.tokens, *sampled[sequence.request_id]]
            slot = self._slot(sequence, item.start)
            assert item.start == len(tokens) - 1
            writes.append((slot, (sequence.cache_salt, tuple(tokens))))
        self._commit(plan, sampled)
        between()
        if following is None:
            return False
        for slot, written in writes:
            assert self.blocks.is_exclusive(slot[0]), "a block of another is written"
            self.memory[slot] = written
        running = [s for s in plan_sequences(following) if s.phase is SequencePhase.RUNNING]
        sampled = {each.request_id: [self.sample(each.tokens)] for each in running}
        self._commit(following, sampled)
        return True

    def _begin(self) -> tuple[StepPlan, dict[str, list[int]]]:
        """Schedule and run the forward pass; returns what it sampled."""
        plan = self.scheduler.schedule()
        self.blocks.check()
        assert plan.num_tokens <= self.budget
        assert self.scheduler.num_running <= self.scheduler.config.max_num_seqs
        assert all(item.count > 0 for item in plan.scheduled)
        for victim in plan.preempted:
            assert victim.phase is SequencePhase.WAITING
            assert not victim.block_ids
            for sequence in plan_sequences(plan):
                assert sequence.arrival_index < victim.arrival_index, "an older one gave way"
        for pull in plan.pulls:
            if pull.block_ids:
                assert all(map(self.blocks.is_exclusive, pull.block_ids))
                self.landing[pull.sequence.request_id] = (
                    pull.sequence,
                    pull.block_ids,
                    pull.first_block,
                )
        sampled = {}
        for item in plan.scheduled:
            self._forward(item.sequence, item.start, item.count)
            if item.samples:
                sampled[item.sequence.request_id] = [self.sample(item.sequence.tokens)]
        return plan, sampled

    def _commit(self, plan: StepPlan, sampled: dict[str, list[int]]) -> None:
        self.blocks.check()
        exported = {s.request_id: self._prompt_slots(s) for s in plan_sequences(plan)}
        for sequence in self.scheduler.commit(plan, sampled):
            self.finished[sequence.request_id] = sequence
            if sequence.export_kv:
                self.leases[sequence.request_id] = exported[sequence.request_id]
        self.blocks.check()

    def step_until_preemption(self, max_steps: int = 100) -> StepPlan:
        """Step until somebody gives way; return that plan."""
        for _ in range(max_steps):
            plan = self.step()
            if plan.preempted:
                return plan
        raise AssertionError(f"nobody was preempted in {max_steps} steps")

    def step_until_finished(self, request_id: str, max_steps: int = 100) -> list[StepPlan]:
        """Step until this sequence has ended; return the plans."""
        plans: list[StepPlan] = []
        while request_id not in self.finished:
            assert len(plans) < max_steps, f"{request_id} does not end"
            plans.append(self.step())
        return plans

    def land(self, request_id: str) -> None:
        """Let a pull arrive whole."""
        sequence, block_ids, first_block = self.landing.pop(request_id)
        for position in range(first_block * self.block_size, sequence.num_prompt_tokens):
            block_id = block_ids[position // self.block_size - first_block]
            self.memory[block_id, position % self.block_size] = kv_of(sequence, position)
        self.scheduler.landed(request_id)
        self.blocks.check()

    def fail(self, request_id: str) -> None:
        """Let a pull fail; its blocks stay exposed to a late write until `settle`."""
        self.failed[request_id] = self.landing.pop(request_id)[1]
        self.scheduler.landing_failed(request_id)
        self.blocks.check()

    def abort(self, request_id: str) -> Aborted | None:
        """Abort a request; an aborted pull is one that can still write."""
        aborted = self.scheduler.abort(request_id)
        if aborted is not None and aborted.cancel_pull:
            self.failed[request_id] = self.landing.pop(request_id)[1]
        self.blocks.check()
        return aborted

    def settle(self, request_id: str) -> None:
        """Let a failed pull write garbage once more, then end."""
        for block_id in self.failed.pop(request_id):
            for offset in range(self.block_size):
                self.memory[block_id, offset] = "late write"
        self.scheduler.settle(request_id)
        self.blocks.check()

    def end_lease(self, request_id: str) -> None:
        """Read the exported prompt as a decode worker would, then end the lease."""
        for slot, expected in self.leases.pop(request_id):
            assert self.memory[slot] == expected, "a leased block was written"
        self.scheduler.end_lease(request_id)
        self.blocks.check()

    def finish_all(self, max_steps: int = 2000) -> None:
        """End every pull, lease and quarantine and step until nothing is left."""
        for _ in range(max_steps):
            for request_id in list(self.landing):
                self.land(request_id)
            for request_id in list(self.failed):
                self.settle(request_id)
            for request_id in list(self.leases):
                self.end_lease(request_id)
            if not self.scheduler.in_flight:
                return
            self.step()
        raise AssertionError(f"{self.scheduler.in_flight} still in flight after {max_steps} steps")

    def alone(self, sequence: Sequence) -> list[int]:
        """Return the tokens that this sequence gets with a machine of its own."""
        tokens = sequence.tokens[: sequence.num_prompt_tokens]
        for _ in range(sequence.params.max_tokens):
            tokens = [*tokens, self.sample(tokens)]
            if tokens[-1] == EOS and not sequence.params.ignore_eos:
                break
        return tokens

    def _forward(self, sequence: Sequence, start: int, count: int) -> None:
        for position in range(start):
            found = self.memory.get(self._slot(sequence, position))
            assert found == kv_of(sequence, position), f"wrong KV at position {position}"
        for position in range(start, start + count):
            slot = self._slot(sequence, position)
            assert self.blocks.is_exclusive(slot[0]), "a shared block is written"
            self.memory[slot] = kv_of(sequence, position)

    def _slot(self, sequence: Sequence, position: int) -> tuple[int, int]:
        return sequence.block_ids[position // self.block_size], position % self.block_size

    def _prompt_slots(self, sequence: Sequence) -> list[tuple[tuple[int, int], object]]:
        return [
            (self._slot(sequence, position), kv_of(sequence, position))
            for position in range(sequence.num_prompt_tokens)
            if sequence.export_kv and sequence.block_ids
        ]


def plan_sequences(plan: StepPlan) -> list[Sequence]:
    """Return the scheduled sequences."""
    return [item.sequence for item in plan.scheduled]


@pytest.fixture(scope="session")
def make_rig() -> type[Rig]:
    """Return the rig's class; call it with the settings that the test is about."""
    return Rig
