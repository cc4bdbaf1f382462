"""A step that is planned before the tokens of the one before it are known."""

import pytest

EOS = 0


def eos_third(tokens):
    """End after the third output token of a prompt of three."""
    return EOS if len(tokens) == 5 else 7


def test_two_steps_in_a_row_give_the_same_tokens(make_rig):
    """Also over the border of a block."""
    rig = make_rig()
    sequence = rig.add("a", [1, 2, 3], max_tokens=9)
    rig.step()
    while rig.step_ahead():
        pass

    assert sequence.tokens == rig.alone(sequence)
    assert sequence.finish_reason == "length"
    counts = rig.blocks.counts()
    assert counts.free + counts.cached == counts.total


def test_a_sequence_that_ended_keeps_its_blocks_until_the_second_step_is_over(make_rig):
    """The step writes into them; its token is dropped."""
    rig = make_rig(sample=eos_third)
    sequence = rig.add("a", [1, 2, 3], max_tokens=9)
    rig.step()
    rig.step()
    held = []

    assert rig.step_ahead(between=lambda: held.append(rig.blocks.counts().referenced))
    assert sequence.finish_reason == "stop"
    assert sequence.output_token_ids == [7, 7, EOS]
    assert held == [2]
    assert rig.blocks.counts().referenced == 0


def test_a_length_that_ends_is_known_before(make_rig):
    """No step is planned for what cannot go on."""
    rig = make_rig()
    rig.add("a", [1, 2, 3], max_tokens=2)
    rig.step()

    assert not rig.step_ahead()
    assert "a" in rig.finished


def test_a_request_that_could_be_admitted_goes_first(make_rig):
    """Its prompt belongs into the next step."""
    rig = make_rig(max_num_seqs=2)
    rig.add("a", [1, 2, 3], max_tokens=9)
    rig.step()
    first = rig.scheduler.schedule()
    rig.add("b", [1, 2, 3])
    assert rig.scheduler.ahead(first) is None


def test_a_full_batch_lets_requests_wait(make_rig):
    """Nothing can be admitted before one ends."""
    rig = make_rig(max_num_seqs=1)
    rig.add("a", [1, 2, 3], max_tokens=9)
    rig.step()
    first = rig.scheduler.schedule()
    rig.add("b", [1, 2, 3])
    assert rig.scheduler.ahead(first) is not None


def test_without_a_block_for_the_next_token_nothing_is_planned(make_rig):
    """`schedule` knows who has to give way."""
    rig = make_rig(num_blocks=2)
    rig.add("a", [1, 2, 3], max_tokens=9)
    rig.add("b", [4, 5, 6], max_tokens=9)
    rig.step()
    assert rig.scheduler.ahead(rig.scheduler.schedule()) is None


def test_a_prompt_that_is_still_read_is_not_left_out(make_rig):
    """Only a step in which everything decodes has one after it."""
    rig = make_rig(budget=4)
    rig.add("a", [1, 2], max_tokens=9)
    rig.step()
    rig.add("b", [1] * 9)
    assert rig.scheduler.ahead(rig.scheduler.schedule()) is None


def test_only_one_step_is_planned_ahead(make_rig):
    """And only after one."""
    rig = make_rig()
    rig.add("a", [1, 2, 3], max_tokens=9)
    rig.step()
    plan = rig.scheduler.schedule()
    following = rig.scheduler.ahead(plan)

    with pytest.raises(RuntimeError, match="one step"):
        rig.scheduler.ahead(following)
    with pytest.raises(RuntimeError, match="before commit"):
        rig.scheduler.schedule()
