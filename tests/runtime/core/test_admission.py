"""Who enters the batch, in which order, and what is refused at the door."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.core.roles import Role
from steelyard_runtime.errors import RequestError


def scheduled(plan) -> list[tuple[str, int, int]]:
    return [(item.sequence.request_id, item.start, item.count) for item in plan.scheduled]


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget(make_rig):
    """Each step takes what the budget allows; only the last chunk samples."""
    rig = make_rig(budget=8)
    rig.add("a", list(range(1, 21)))
    plans = [rig.step() for _ in range(3)]
    assert [scheduled(plan) for plan in plans] == [[("a", 0, 8)], [("a", 8, 8)], [("a", 16, 4)]]
    assert [plan.scheduled[0].logit_positions for plan in plans] == [(), (), (19,)]


def test_decoding_comes_before_prefill_and_the_rest_of_the_budget_admits(make_rig):
    """A decoding sequence always gets its token; prompts share what is left, oldest first."""
    rig = make_rig(budget=8)
    rig.add("a", [1, 2])
    rig.step()
    rig.add("b", list(range(1, 11)))
    rig.add("c", [5, 6, 7])
    assert scheduled(rig.step()) == [("a", 2, 1), ("b", 0, 7)]
    assert scheduled(rig.step()) == [("a", 3, 1), ("b", 7, 3), ("c", 0, 3)]


def test_decode_role_keeps_half_of_the_budget_from_prefill_while_it_decodes(make_rig):
    """A prompt that a decode worker computes itself slows its streams less."""
    rig = make_rig(budget=8, role=Role.DECODE)
    rig.add("b", list(range(1, 11)))
    assert scheduled(rig.step()) == [("b", 0, 8)]
    rig.step()
    rig.add("c", list(range(20, 31)))
    assert scheduled(rig.step()) == [("b", 10, 1), ("c", 0, 4)]
    rig.scheduler.set_role(Role.PREFILL)
    assert scheduled(rig.step()) == [("b", 11, 1), ("c", 4, 7)]


def test_no_more_than_max_num_seqs_run(make_rig):
    """The next sequence starts when one has ended."""
    rig = make_rig(max_num_seqs=2)
    for name in "abc":
        rig.add(name, [1, 2], max_tokens=2)
    assert [s[0] for s in scheduled(rig.step())] == ["a", "b"]
    assert rig.scheduler.num_waiting == 1
    rig.step()
    assert [s[0] for s in scheduled(rig.step())] == ["c"]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12),
    budget=st.integers(1, 20),
    max_num_seqs=st.integers(1, 4),
)
def test_sequences_start_in_the_order_of_arrival(make_rig, lengths, budget, max_num_seqs):
    """First come, first served, whatever the sizes of prompts, budget and batch."""
    rig = make_rig(num_blocks=12, budget=budget, max_num_seqs=max_num_seqs, max_model_len=48)
    for index, length in enumerate(lengths):
        rig.add(f"{index:02}", [index + 1] * length)
    started = []
    for plan in rig.step_until_finished(f"{len(lengths) - 1:02}", max_steps=2000):
        started += [s[0] for s in scheduled(plan) if s[0] not in started]
    assert started == sorted(started)
    assert len(started) == len(lengths)


def test_a_prompt_that_lacks_blocks_is_not_overtaken(make_rig):
    """A younger small prompt does not take the blocks that an older one waits for."""
    rig = make_rig(num_blocks=6)
    rig.add("a", list(range(1, 13)), max_tokens=4)
    rig.step()
    rig.add("big", list(range(20, 36)))
    rig.add("small", [50, 51])
    for plan in rig.step_until_finished("a"):
        assert {s[0] for s in scheduled(plan)} == {"a"}
    assert scheduled(rig.step())[0] == ("big", 0, 16)


def test_siblings_wait_for_the_first_ones_prefill_and_share_its_blocks(make_rig):
    """With n > 1 the prompt is computed once; another request is not held up meanwhile."""
    rig = make_rig(budget=12)
    prompt = list(range(1, 22))
    siblings = [rig.add(f"g{i}", prompt, group_id="g") for i in range(3)]
    rig.add("other", [70, 71])
    assert scheduled(rig.step()) == [("g0", 0, 12)]
    assert scheduled(rig.step()) == [("g0", 12, 9), ("other", 0, 2)]
    assert scheduled(rig.step())[2:] == [("g1", 20, 1), ("g2", 20, 1)]
    assert [s.num_cached_tokens for s in siblings] == [0, 20, 20]
    rig.finish_all()
    assert siblings[0].tokens == siblings[1].tokens


def test_siblings_do_not_wait_for_one_that_is_gone(make_rig):
    """After the first choice is aborted in its prefill the next one takes over."""
    rig = make_rig(budget=8)
    for i in range(2):
        rig.add(f"g{i}", list(range(1, 14)), group_id="g")
    rig.step(during=lambda: rig.abort("g0"))
    assert [s[0] for s in scheduled(rig.step())] == ["g1"]


def test_siblings_run_at_once_without_a_prefix_cache(make_rig):
    """There is nothing to wait for where nothing can be found."""
    rig = make_rig(prefix_caching=False)
    for i in range(2):
        rig.add(f"g{i}", [1, 2, 3], group_id="g")
    assert len(rig.step().scheduled) == 2


def test_a_full_queue_answers_429_with_retry_after(make_rig):
    """The request beyond the limit is refused and leaves no trace."""
    rig = make_rig(max_waiting=2)
    for name in "ab":
        rig.add(name, [1])
    with pytest.raises(RequestError) as caught:
        rig.add("c", [1])
    assert (caught.value.status, caught.value.code) == (429, "queue_full")
    assert caught.value.retry_after_seconds == 1
    assert rig.scheduler.in_flight == 2
    assert rig.scheduler.get("c") is None


@pytest.mark.parametrize(
    ("length", "max_tokens", "bound", "given"),
    [
        (20, 1, "the model's length", {"max_model_len": 20}),
        (21, 0, "the model's length", {"max_model_len": 20}),
        (16, 1, "the KV cache", {"num_blocks": 4}),
    ],
)
def test_a_prompt_that_cannot_fit_is_refused_in_a_sentence(
    make_rig, length, max_tokens, bound, given
):
    """The message names the length that was given, the limit and what sets it."""
    rig = make_rig(**given)
    with pytest.raises(RequestError, match=f"has {length} tokens.*{bound}") as caught:
        rig.add("a", [1] * length, max_tokens=max_tokens)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


@pytest.mark.parametrize(("num_blocks", "outputs"), [(64, 10), (4, 6)])
def test_output_ends_where_the_model_or_the_pool_ends(make_rig, num_blocks, outputs):
    """`max_tokens` is lowered to what fits; the sequence ends with `length`."""
    rig = make_rig(max_model_len=20, num_blocks=num_blocks)
    sequence = rig.add("a", [1] * 10, max_tokens=1000)
    rig.finish_all()
    assert sequence.num_output_tokens == outputs
    assert sequence.finish_reason == "length"


def test_an_id_in_use_is_refused(make_rig):
    """A second request under a live id, or one whose blocks are leased, is a 400."""
    rig = make_rig()
    rig.add("a", [1, 2], max_tokens=1, export_kv=True)
    for _ in range(2):
        with pytest.raises(RequestError, match="'a' is in use"):
            rig.add("a", [1])
        rig.step()
    rig.end_lease("a")
    rig.add("a", [1])


def test_a_draining_worker_refuses_new_requests_and_finishes_old_ones(make_rig):
    """Drain answers 503 with Retry-After until resumed."""
    rig = make_rig()
    rig.add("a", [1, 2])
    rig.scheduler.drain()
    with pytest.raises(RequestError) as caught:
        rig.add("b", [1])
    assert (caught.value.status, caught.value.code) == (503, "draining")
    assert caught.value.retry_after_seconds == 1
    rig.finish_all()
    assert rig.finished["a"].finish_reason == "length"
    rig.scheduler.resume()
    rig.add("b", [1])
