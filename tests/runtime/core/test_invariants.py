"""Whatever happens in whatever order, no block is lost, shared KV is never written, all end."""

from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from steelyard_runtime.core.roles import Role
from steelyard_runtime.errors import RequestError


def sometimes_eos(tokens: list[int]) -> int:
    """Sample from a small vocabulary that has the end of sequence in it."""
    return (sum(tokens) * 7 + len(tokens)) % 11


# Prompts with common heads, so that the prefix cache is hit at every length.
prompts = st.builds(
    lambda head, length, tail: ([head] * length) + tail,
    st.integers(1, 2),
    st.integers(0, 20),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, steps, lands, fails, aborts; the rig checks every step's reads and writes."""

    def __init__(self, make_rig):
        super().__init__()
        self.make_rig = make_rig
        self.sequences = {}
        self.aborted = set()

    @initialize(
        num_blocks=st.integers(6, 14),
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(1, 12),
        prefix_caching=st.booleans(),
        role=st.sampled_from(Role),
    )
    def start(self, **config):
        """Draw a small machine, so that blocks and places run out."""
        self.rig = self.make_rig(max_waiting=6, sample=sometimes_eos, max_model_len=40, **config)

    @rule(
        prompt=prompts,
        max_tokens=st.integers(0, 12),
        resume=st.integers(0, 3),
        remote=st.booleans(),
        export_kv=st.booleans(),
        ignore_eos=st.booleans(),
        prompt_logprobs=st.sampled_from([None, None, 1]),
        salt=st.sampled_from(["", "", "salt"]),
        choices=st.integers(1, 3),
    )
    def add(self, *, prompt, max_tokens, resume, remote, choices, salt, **rest):
        """Add one request; its choices are a group."""
        tokens = list(prompt)
        while len(tokens) < len(prompt) + min(resume, max_tokens):
            tokens.append(sometimes_eos(tokens))
            if tokens[-1] == 0 and not rest["ignore_eos"]:
                break
        base = len(self.sequences)
        for choice in range(choices):
            try:
                sequence = self.rig.add(
                    f"r{base}.{choice}",
                    prompt,
                    resume=tokens[len(prompt) :],
                    remote=remote and choice == 0,
                    cache_salt=salt,
                    group_id=f"g{base}" if choices > 1 else "",
                    max_tokens=max_tokens,
                    **rest,
                )
            except RequestError as error:
                assert error.status in (400, 429)
                continue
            self.sequences[sequence.request_id] = sequence

    @rule()
    def step(self):
        """Run a step."""
        self.rig.step()

    @rule(data=st.data(), what=st.sampled_from(["nothing", "abort", "land", "settle"]))
    def step_ahead(self, data, what):
        """Plan a second step before the first is known; something happens between the two."""

        def between():
            if what == "abort" and self.sequences:
                self._abort(data.draw(st.sampled_from(sorted(self.sequences))))
            elif what == "land" and self.rig.landing:
                self.rig.land(data.draw(st.sampled_from(sorted(self.rig.landing))))
            elif what == "settle" and self.rig.failed:
                self.rig.settle(data.draw(st.sampled_from(sorted(self.rig.failed))))

        self.rig.step_ahead(between)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def abort_during_step(self, data):
        """Abort a sequence while the forward pass that may hold it runs."""
        victim = data.draw(st.sampled_from(sorted(self.sequences)))
        self.rig.step(during=lambda: self._abort(victim))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def abort(self, data):
        """Abort a sequence between steps, ended ones included."""
        self._abort(data.draw(st.sampled_from(sorted(self.sequences))))

    @precondition(lambda self: self.rig.landing)
    @rule(data=st.data(), arrives=st.booleans())
    def end_pull(self, data, arrives):
        """Let a pull arrive or fail."""
        request_id = data.draw(st.sampled_from(sorted(self.rig.landing)))
        (self.rig.land if arrives else self.rig.fail)(request_id)

    @precondition(lambda self: self.rig.failed)
    @rule(data=st.data())
    def settle(self, data):
        """Let a failed pull write once more and end."""
        self.rig.settle(data.draw(st.sampled_from(sorted(self.rig.failed))))

    @precondition(lambda self: self.rig.leases)
    @rule(data=st.data())
    def end_lease(self, data):
        """Let the reader of an export finish."""
        self.rig.end_lease(data.draw(st.sampled_from(sorted(self.rig.leases))))

    @rule()
    def forget_cache(self):
        """Empty the prefix cache under the running sequences."""
        self.rig.scheduler.reset_prefix_cache()

    def teardown(self):
        """Everything ends with the text it would have alone, and no block stays taken."""
        if not hasattr(self, "rig"):
            return
        self.rig.finish_all()
        counts = self.rig.blocks.counts()
        assert counts.free + counts.cached == counts.total
        for request_id, sequence in self.sequences.items():
            if request_id in self.aborted:
                continue
            assert sequence.finish_reason in ("stop", "length")
            assert sequence.tokens == self.rig.alone(sequence)

    def _abort(self, request_id):
        if self.rig.abort(request_id) is not None:
            self.aborted.add(request_id)


def test_no_interleaving_loses_blocks_or_changes_an_answer(make_rig):
    """Every request ends as if it were alone, and all blocks come back."""
    run_state_machine_as_test(
        partial(SchedulerMachine, make_rig),
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
        ),
    )
