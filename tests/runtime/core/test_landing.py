"""Pulls: what is read where, and what happens to the blocks when it goes wrong."""

import pytest

from steelyard_runtime.core.sequence import SequencePhase

PROMPT = list(range(1, 15))  # three full blocks of four, and two tokens


def test_a_pull_covers_the_prompt_and_only_the_last_position_is_recomputed(make_rig):
    """After landing the first step computes one token and samples."""
    rig = make_rig()
    sequence = rig.add("a", PROMPT, remote=True)
    plan = rig.step()
    [pull] = plan.pulls
    assert (len(pull.block_ids), pull.first_block, plan.scheduled) == (4, 0, [])
    assert (sequence.phase, rig.scheduler.num_landing) == (SequencePhase.LANDING, 1)
    assert rig.step().pulls == []
    rig.land("a")
    [item] = rig.step().scheduled
    assert (item.start, item.count, item.logit_positions) == (13, 1, (13,))
    assert sequence.num_remote_tokens == 14
    rig.finish_all()
    assert sequence.tokens == rig.alone(sequence)


def test_the_local_prefix_is_not_pulled(make_rig):
    """Blocks that are cached here are shared, and the pull starts behind them."""
    rig = make_rig()
    rig.add("warm", PROMPT[:9])
    rig.finish_all()
    sequence = rig.add("a", PROMPT, remote=True)
    [pull] = rig.step().pulls
    assert (len(pull.block_ids), pull.first_block) == (2, 2)
    rig.land("a")
    rig.step()
    assert (sequence.num_cached_tokens, sequence.num_remote_tokens) == (8, 6)


def test_a_prompt_that_is_cached_whole_only_tells_the_prefill_worker(make_rig):
    """The pull has no blocks, and the sequence runs in the same step."""
    rig = make_rig()
    rig.add("warm", PROMPT)
    rig.finish_all()
    rig.add("a", PROMPT, remote=True)
    plan = rig.step()
    assert [(p.block_ids, p.first_block) for p in plan.pulls] == [((), 3)]
    assert [(item.start, item.count) for item in plan.scheduled] == [(12, 2)]


@pytest.mark.parametrize("event", ["landed", "landing_failed"])
def test_the_end_of_a_pull_without_blocks_changes_nothing(make_rig, event):
    """The sequence runs already, and nothing is counted as recomputed."""
    rig = make_rig()
    rig.add("warm", PROMPT)
    rig.finish_all()
    sequence = rig.add("a", PROMPT, remote=True)
    rig.step()
    assert not getattr(rig.scheduler, event)("a")
    [item] = rig.step().scheduled
    assert (item.start, sequence.num_cached_tokens, sequence.num_remote_tokens) == (14, 12, 0)


def test_a_prompt_that_is_cached_whole_waits_for_a_place_in_the_batch(make_rig):
    """The prefill worker is told at once; the sequence keeps its blocks while it waits."""
    rig = make_rig(max_num_seqs=1)
    rig.add("warm", PROMPT)
    rig.finish_all()
    rig.add("running", [9, 9], max_tokens=3)
    rig.step()
    sequence = rig.add("a", PROMPT, remote=True)
    plan = rig.step()
    assert [item.sequence.request_id for item in plan.scheduled] == ["running"]
    assert (len(plan.pulls), len(sequence.block_ids), rig.scheduler.num_waiting) == (1, 4, 1)
    assert rig.step().pulls == []
    rig.finish_all()
    assert sequence.tokens == rig.alone(sequence)


def test_prompt_log_probabilities_are_computed_here_instead_of_pulled(make_rig):
    """The prefill worker is told, and every prompt position yields logits."""
    rig = make_rig(budget=8)
    rig.add("a", PROMPT, remote=True, prompt_logprobs=1)
    plans = [rig.step() for _ in range(3)]
    assert [pull.block_ids for pull in plans[0].pulls] == [()]
    wanted = [plan.scheduled[0].logit_positions for plan in plans]
    assert wanted == [tuple(range(8)), tuple(range(8, 14)), (14,)]


def test_landing_does_not_hold_up_others(make_rig):
    """A younger request runs while an older one's prompt is on its way."""
    rig = make_rig(max_num_seqs=1)
    rig.add("remote", PROMPT, remote=True)
    rig.add("local", [1, 2, 3], max_tokens=2)
    rig.step()
    rig.step()
    assert list(rig.finished) == ["local"]


def test_a_pull_starts_while_the_batch_is_full(make_rig):
    """Transfers overlap with decoding; they need blocks, not a place in the batch."""
    rig = make_rig(max_num_seqs=1)
    rig.add("running", [1, 2, 3], max_tokens=20)
    rig.add("queued", [4, 5, 6])
    rig.step()
    rig.add("remote", PROMPT, remote=True)
    assert [p.sequence.request_id for p in rig.step().pulls] == ["remote"]


def test_a_pull_does_not_take_the_blocks_of_an_older_request(make_rig):
    """Where the queue's head lacks only a place, its blocks are kept back."""
    rig = make_rig(num_blocks=8, max_num_seqs=1)
    rig.add("running", [1, 2, 3], max_tokens=3)
    rig.add("queued", [4] * 12)
    rig.step()
    rig.add("remote", PROMPT, remote=True)
    assert rig.step().pulls == []
    rig.finish_all()
    assert list(rig.finished) == ["running", "queued", "remote"]


def test_a_failed_pull_is_recomputed_into_other_blocks(make_rig):
    """Landing blocks stay quarantined until the transfer is over; the answer is the same."""
    rig = make_rig()
    sequence = rig.add("a", PROMPT, remote=True)
    [pull] = rig.step().pulls
    rig.fail("a")
    assert rig.blocks.counts().quarantined == 4
    rig.step()
    assert len(sequence.block_ids) == 4
    assert not set(sequence.block_ids) & set(pull.block_ids)
    rig.step_until_finished("a")
    assert sequence.num_remote_tokens == 0
    assert sequence.tokens == rig.alone(sequence)
    rig.settle("a")
    assert rig.blocks.counts().quarantined == 0


@pytest.mark.parametrize("arrives", [True, False])
def test_an_aborted_pull_frees_its_blocks_only_when_it_is_over(make_rig, arrives):
    """Abort says that a pull must be cancelled; a pull that still lands settles it as well."""
    rig = make_rig()
    rig.add("warm", PROMPT[:5], max_tokens=1)
    rig.finish_all()
    rig.add("a", PROMPT, remote=True)
    rig.step()
    aborted = rig.abort("a")
    assert (aborted.cancel_pull, aborted.release_remote) == (True, False)
    counts = rig.blocks.counts()
    assert (counts.quarantined, counts.referenced, counts.cached) == (3, 0, 1)
    if arrives:
        rig.scheduler.landed("a")
    else:
        assert not rig.scheduler.landing_failed("a")
        rig.settle("a")
    assert rig.blocks.counts().quarantined == 0
    assert rig.scheduler.in_flight == 0


def test_a_remote_request_that_never_pulled_is_released_on_abort(make_rig):
    """The prefill worker's lease ends early even if nothing was read."""
    rig = make_rig()
    rig.add("a", PROMPT, remote=True)
    aborted = rig.abort("a")
    assert (aborted.cancel_pull, aborted.release_remote) == (False, True)


def test_a_resumed_request_pulls_its_prompt_and_prefills_its_output(make_rig):
    """Output that another worker made is computed here, then decoding goes on."""
    rig = make_rig()
    whole = rig.alone(rig.add("whole", PROMPT, max_tokens=10))
    rig.abort("whole")
    sequence = rig.add("a", PROMPT, resume=whole[14:19], remote=True, max_tokens=10)
    [pull] = rig.step().pulls
    assert len(pull.block_ids) == 4
    rig.land("a")
    [item] = rig.step().scheduled
    assert (item.start, item.count) == (13, 6)
    rig.finish_all()
    assert sequence.tokens == whole


def test_siblings_of_a_pulled_prompt_wait_for_it(make_rig):
    """The prompt is pulled once for all choices."""
    rig = make_rig()
    rig.add("g0", PROMPT, remote=True, group_id="g")
    rig.add("g1", PROMPT, group_id="g")
    assert rig.step().scheduled == []
    rig.land("g0")
    assert [item.start for item in rig.step().scheduled] == [13, 12]
