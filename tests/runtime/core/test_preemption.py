"""Who gives way when blocks run out, and that nobody's answer changes by it."""


def names(sequences) -> list[str]:
    return [sequence.request_id for sequence in sequences]


def test_the_newest_sequence_gives_way_and_is_recomputed(make_rig):
    """The victim waits at the head of the queue and ends with the text it would have alone."""
    rig = make_rig(num_blocks=7, prefix_caching=False, budget=32)
    old = rig.add("old", [1] * 8, max_tokens=12)
    new = rig.add("new", [2] * 8, max_tokens=8)
    rig.add("newest", [3] * 8, max_tokens=8)
    plans = rig.step_until_finished("newest")
    preempted = [name for plan in plans for name in names(plan.preempted)]
    assert preempted[0] == "new"  # `newest` was never admitted
    assert "old" not in preempted
    assert rig.scheduler.counters.preemptions == len(preempted) == new.num_preemptions
    assert list(rig.finished) == ["old", "new", "newest"]
    for sequence in (old, new):
        assert sequence.tokens == rig.alone(sequence)


def test_a_preempted_sequence_finds_its_blocks_again(make_rig):
    """What was published before the preemption and not evicted since is not computed twice."""
    rig = make_rig(num_blocks=5, budget=32)
    rig.add("old", [1] * 7, max_tokens=4)
    new = rig.add("new", [2] * 8, max_tokens=6)
    rig.step_until_preemption()
    assert new.num_preemptions == 1
    rig.step_until_finished("old")
    assert [item.start for item in rig.step().scheduled] == [8]
    assert new.num_cached_tokens == 0  # nothing of the prompt was cached at first
    rig.finish_all()
    assert new.tokens == rig.alone(new)


def test_a_sequence_that_is_the_newest_gives_way_itself(make_rig):
    """A sequence never takes blocks from an older one."""
    rig = make_rig(num_blocks=6, prefix_caching=False, budget=32)
    rig.add("old", [1] * 15, max_tokens=8)
    rig.add("new", [2] * 3, max_tokens=12)
    plan = rig.step_until_preemption()
    assert names(plan.preempted) == ["new"]
    assert names(item.sequence for item in plan.scheduled) == ["old"]
    rig.finish_all()


def test_a_sequence_alone_waits_for_the_end_of_a_lease(make_rig):
    """Blocks that a decode worker may read are not taken back; the sequence goes on after."""
    rig = make_rig(num_blocks=4, prefix_caching=False)
    rig.add("export", [1] * 8, max_tokens=1, export_kv=True)
    rig.step()
    waiter = rig.add("waiter", [2] * 7, max_tokens=8)
    rig.step_until_preemption()
    assert rig.step().scheduled == []
    rig.end_lease("export")
    rig.finish_all()
    assert waiter.tokens == rig.alone(waiter)


def test_landed_blocks_give_way_to_an_older_running_sequence(make_rig):
    """A prompt that landed but found no place yet is recomputed rather than an older one."""
    rig = make_rig(num_blocks=6, prefix_caching=False, max_num_seqs=1)
    rig.add("old", [1] * 8, max_tokens=12)
    rig.step()
    late = rig.add("late", [2] * 7, remote=True)
    rig.step()
    rig.land("late")
    assert names(rig.step_until_preemption().preempted) == ["late"]
    rig.finish_all()
    assert late.tokens == rig.alone(late)


def test_a_landed_prompt_runs_although_an_older_one_lacks_blocks(make_rig):
    """The older sequence waits for the very blocks that the landed one gives back at its end."""
    rig = make_rig(num_blocks=6, prefix_caching=False)
    old = rig.add("old", [1] * 7, max_tokens=14)
    rig.step()
    rig.add("landed", [2] * 8, remote=True, max_tokens=4)
    assert names(rig.step_until_preemption().preempted) == ["old"]
    assert rig.step().scheduled == []
    rig.land("landed")
    rig.finish_all()
    assert list(rig.finished) == ["landed", "old"]
    assert old.tokens == rig.alone(old)


def test_a_sequence_that_landed_and_ended_is_not_preempted(make_rig):
    """Only sequences that hold blocks give way."""
    rig = make_rig(num_blocks=6, prefix_caching=False)
    rig.add("old", [1] * 7, max_tokens=16)
    rig.step()
    rig.add("landed", [2] * 3, remote=True, max_tokens=1)
    rig.step()
    rig.land("landed")
    rig.step()
    rig.add("new", [3] * 4, max_tokens=8)
    plans = rig.step_until_finished("new")
    preempted = [name for plan in plans for name in names(plan.preempted)]
    assert set(preempted) == {"new"}


def test_a_preempted_sequence_does_not_run_in_the_same_step(make_rig):
    """Not even where a sibling's cached blocks would let it: a plan is one thing or the other."""
    rig = make_rig(num_blocks=9, budget=10)
    for name in ("twin", "victim"):  # prompt log probabilities give each its own prompt blocks
        rig.add(name, [1] * 16, max_tokens=8, prompt_logprobs=1)
    plan = rig.step_until_preemption()
    assert names(plan.preempted) == ["victim"]
    assert "victim" not in names(item.sequence for item in plan.scheduled)
    assert [item.start for item in rig.step().scheduled][-1] == 16
