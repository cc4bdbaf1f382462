"""Sequences that sit steps out because what their next token needs is not there yet."""


def names(plan) -> list[str]:
    return [item.sequence.request_id for item in plan.scheduled]


def test_a_held_sequence_sits_out_and_goes_on(make_rig):
    """Others decode and are admitted meanwhile; its tokens are those that it gets alone."""
    rig = make_rig()
    held = rig.add("held", [1, 2, 3], max_tokens=6)
    rig.add("other", [4, 5, 6], max_tokens=6)
    rig.step()
    held.is_held = True
    rig.step()
    rig.add("later", [7, 8])
    assert names(rig.step()) == ["other", "later"]

    held.is_held = False
    while rig.scheduler.in_flight:
        rig.step()
    assert held.tokens == rig.alone(held)


def test_nothing_runs_where_all_are_held(make_rig):
    """The plan is empty, and the next one is not once the sequence may go on."""
    rig = make_rig()
    held = rig.add("held", [1, 2, 3])
    rig.step()
    held.is_held = True
    assert names(rig.scheduler.schedule()) == []

    held.is_held = False
    assert names(rig.step()) == ["held"]


def test_no_step_is_planned_ahead_beside_a_held_sequence(make_rig):
    """It would miss the steps after the one that it sits out."""
    rig = make_rig()
    held = rig.add("held", [1, 2, 3], max_tokens=9)
    rig.add("other", [4, 5, 6], max_tokens=9)
    rig.step()
    held.is_held = True
    assert not rig.step_ahead()

    held.is_held = False
    assert rig.step_ahead()


def test_a_held_sequence_that_gave_way_is_not_admitted_before_it_may_run(make_rig):
    """It waits without blocks; afterwards it is computed anew."""
    rig = make_rig(num_blocks=5)
    rig.add("old", [1, 2, 3, 4, 5], max_tokens=12)
    held = rig.add("held", [6, 7, 8, 9, 10], max_tokens=3)
    rig.step()
    held.is_held = True
    assert rig.step_until_preemption().preempted == [held]
    while "old" not in rig.finished:
        assert names(rig.step()) in ([], ["old"])
    assert names(rig.step()) == []

    held.is_held = False
    while rig.scheduler.in_flight:
        rig.step()
    assert held.tokens == rig.alone(held)
