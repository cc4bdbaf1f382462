"""The step: messages in, outputs out."""

from collections.abc import Callable
from typing import Any

import pytest

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.roles import Phase, Role
from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import AddRequest, Output, RemotePrefill
from steelyard_runtime.transfer.interface import LeaseEnded, PullDone, PullFailed, PullSettled

Expected = Callable[[list[int], int], list[int]]
PROMPT = [7, 8, 9, 10, 11, 12]
REMOTE = RemotePrefill("engine", "remote-1", "127.0.0.1", 5600, [[0, 1]], num_tokens=6)


def request(request_id: str = "r", prompt: list[int] = PROMPT, **more: Any) -> AddRequest:
    """A greedy request for four tokens."""
    params = {"max_tokens": 4, "temperature": 0.0, **more.pop("params", {})}
    return AddRequest(request_id, prompt, SamplingParams(**params), **more)


def tokens(outputs: list[Output]) -> list[int]:
    """All token ids of one request."""
    return [token for output in outputs for token in output.token_ids]


def test_a_request_gets_its_tokens_and_its_end(rig: Any, expected_tokens: Expected) -> None:
    """One output a token; the last one says why it ended."""
    rig.engine.add(request())
    outputs = rig.run()["r"]

    assert tokens(outputs) == expected_tokens(PROMPT, 4)
    assert [output.finish_reason for output in outputs] == [None, None, None, "length"]


def test_a_batch_gives_what_each_gets_alone(make_rig: Any, expected_tokens: Expected) -> None:
    """Mixed prefill and decode, with preemption, changes nobody's tokens."""
    rig = make_rig(num_blocks=9, max_num_batched_tokens=8)
    prompts = {f"r{index}": [index + 1] * (3 + index * 2) for index in range(5)}
    for name, prompt in prompts.items():
        rig.engine.add(request(name, prompt, params={"max_tokens": 10}))
    outputs = rig.run()

    assert rig.scheduler.counters.preemptions > 0
    assert {name: tokens(each) for name, each in outputs.items()} == {
        name: expected_tokens(prompt, 10) for name, prompt in prompts.items()
    }


def test_resumed_tokens_are_continued_not_repeated(rig: Any, expected_tokens: Expected) -> None:
    """With two tokens resumed, only the other two come."""
    whole = expected_tokens(PROMPT, 4)
    rig.engine.add(request(resume_token_ids=whole[:2]))

    assert tokens(rig.run()["r"]) == whole[2:]


@pytest.mark.parametrize("resumed", [0, 1, 3])
def test_a_seeded_request_resumes_with_the_same_draws(
    rig: Any, make_rig: Any, resumed: int
) -> None:
    """A draw belongs to its output position, so a resumed answer is the same answer."""
    sampling = {"temperature": 1.5, "seed": 42, "max_tokens": 6}
    rig.engine.add(request(params=sampling))
    whole = tokens(rig.run()["r"])
    other = make_rig()
    other.engine.add(request(params=sampling, resume_token_ids=whole[:resumed]))

    assert whole[:resumed] + tokens(other.run()["r"]) == whole


def test_an_abort_frees_everything_at_once(rig: Any) -> None:
    """After an abort no block is held and the last output says so."""
    rig.engine.add(request(params={"max_tokens": 100}))
    rig.engine.step()
    rig.engine.abort("r")

    assert rig.scheduler.blocks.counts().referenced == 0
    assert rig.engine.step()[-1].finish_reason == "abort"


def test_a_refusal_is_an_output(rig: Any) -> None:
    """A prompt that cannot fit ends at once with an error and its status."""
    rig.engine.add(request(prompt=[1] * 500))
    (refusal,) = rig.engine.step()

    assert (refusal.finish_reason, refusal.error_status) == ("error", 400)
    assert "500 tokens" in refusal.error


def test_logprobs_describe_each_token(rig: Any) -> None:
    """The sampled token is listed with the asked number of others."""
    rig.engine.add(request(params={"logprobs": 2}))
    described = [output.logprobs[0] for output in rig.run()["r"] if output.logprobs]

    assert all(each.top[0] == (each.token_id, each.logprob) for each in described)
    assert {len(each.top) for each in described} == {2}


def test_prompt_logprobs_cover_every_position_over_chunks(make_rig: Any) -> None:
    """With chunks of four tokens each position after the first is described once, in order."""
    rig = make_rig(max_num_batched_tokens=4)
    prompt = [3, 4, 5, 6, 7, 8, 9, 10, 11]
    rig.engine.add(request(prompt=prompt, params={"prompt_logprobs": 0}))
    described = rig.run()["r"][0].prompt_logprobs

    assert described is not None
    assert [each and each.token_id for each in described] == [None, *prompt[1:]]


def test_an_exported_prompt_is_leased_until_the_reader_is_done(rig: Any) -> None:
    """The last output carries the transfer's parameters; the lease's end frees the blocks."""
    rig.engine.add(request(export_kv=True, params={"max_tokens": 1}))
    outputs = rig.run()["r"]
    assert outputs[-1].kv_transfer_params == {
        "remote_request_id": "r",
        "steelyard": {"fingerprint": "f" * 64},
    }
    assert rig.scheduler.blocks.counts().leased == 2
    rig.transfer.pending.append(LeaseEnded("r", "done"))
    rig.engine.step()

    assert rig.scheduler.blocks.counts().leased == 0
    assert rig.engine.in_flight == 0


def test_a_landed_prompt_is_not_computed_again(rig: Any, expected_tokens: Expected) -> None:
    """After a pull only the last prompt position goes through the model."""
    rig.engine.add(request(remote_prefill=REMOTE))
    assert rig.engine.step() == []
    assert rig.transfer.calls[1][:3] == ("pull", "r", 0)
    rig.transfer.pending.append(PullDone("r", 2, 0.001))
    outputs = rig.run()["r"]

    assert tokens(outputs) == expected_tokens(PROMPT, 4)
    assert rig.runner.plans[0].num_tokens == 1
    assert outputs[0].num_remote_tokens == len(PROMPT)


def test_a_failed_pull_recomputes_into_other_blocks(rig: Any, expected_tokens: Expected) -> None:
    """The answer is the same; the landing blocks stay quarantined until the pull is settled."""
    rig.engine.add(request(remote_prefill=REMOTE))
    rig.engine.step()
    rig.transfer.pending.append(PullFailed("r", "checksum", "block 1"))
    assert tokens(rig.run()["r"]) == expected_tokens(PROMPT, 4)
    assert rig.scheduler.blocks.counts().quarantined == 2
    assert rig.engine.statistics.local_recomputes == 1
    rig.transfer.pending.append(PullSettled("r"))
    rig.engine.step()

    assert rig.scheduler.blocks.counts().quarantined == 0


def test_an_abort_while_landing_quarantines_until_settled(rig: Any) -> None:
    """The pull is cancelled, and its blocks are free only when nothing can land any more."""
    rig.engine.add(request(remote_prefill=REMOTE))
    rig.engine.step()
    rig.engine.abort("r")
    assert ("cancel", "r") in rig.transfer.calls
    assert rig.scheduler.blocks.counts().quarantined == 2
    rig.transfer.pending += [PullFailed("r", "cancelled", ""), PullSettled("r")]
    rig.engine.step()

    counts = rig.scheduler.blocks.counts()
    assert counts.free + counts.cached == counts.total


def test_a_refused_request_releases_the_prefill_workers_blocks(rig: Any) -> None:
    """What never pulls tells the prefill worker, so that its lease need not run out."""
    rig.engine.drain()
    rig.engine.add(request(remote_prefill=REMOTE))

    assert rig.engine.step()[0].error_status == 503
    assert ("release", "remote-1") in rig.transfer.calls


def test_a_role_changes_only_when_drained(rig: Any) -> None:
    """409 while something runs; after the drain the new role takes requests."""
    rig.engine.add(request())
    rig.engine.step()
    rig.engine.drain()
    with pytest.raises(RequestError) as caught:
        rig.engine.set_role(Role.PREFILL)
    assert caught.value.status == 409
    rig.run()
    assert rig.engine.phase is Phase.DRAINED
    rig.engine.set_role(Role.PREFILL)

    assert (rig.engine.role, rig.engine.phase) == (Role.PREFILL, Phase.READY)


def test_the_old_role_resumes_a_draining_worker(rig: Any) -> None:
    """Taking back a drain needs no empty worker."""
    rig.engine.add(request())
    rig.engine.step()
    rig.engine.drain()
    rig.engine.set_role(Role.BOTH)

    assert rig.engine.phase is Phase.READY


def test_failing_all_ends_every_sequence_with_the_status(rig: Any) -> None:
    """A drain that is overdue gives each request an error that a router can replay."""
    rig.engine.add(request("a", params={"max_tokens": 50}))
    rig.engine.add(request("b", params={"max_tokens": 50}))
    rig.engine.step()
    rig.engine.fail_all("draining", 503)
    outputs = rig.engine.step()

    assert {(each.request_id, each.error_status) for each in outputs} == {("a", 503), ("b", 503)}
    assert rig.engine.in_flight == 0


def test_the_state_tells_what_steps_cost(make_rig: Any) -> None:
    """Prefill and decode steps are summed apart, with what was in them."""
    rig = make_rig()
    for name in ("a", "b"):
        rig.engine.add(request(name))
    rig.run()
    steps = rig.engine.statistics.snapshot()["steps"]
    prefill, decode = steps["prefill"], steps["decode"]

    # One step reads both prompts of six; three more make tokens 2 to 4 of each.
    assert (prefill["count"], prefill["tokens"], prefill["tokensSquared"]) == (1, 12, 144)
    assert (decode["count"], decode["sequences"], decode["sequencesSquared"]) == (3, 6, 12)
    assert decode["kvTokens"] == 2 * (6 + 7 + 8)
    assert decode["kvTokensSquared"] == 4 * (36 + 49 + 64)
    assert decode["sequencesKvTokens"] == 4 * (6 + 7 + 8)
    assert decode["sequenceSeconds"] == pytest.approx(2 * decode["seconds"])
    assert prefill["tokenSeconds"] == pytest.approx(12 * prefill["seconds"])
    assert decode["seconds"] > 0


def test_steps_that_mix_prompts_and_answers_are_not_summed(make_rig: Any) -> None:
    """They tell neither cost apart."""
    rig = make_rig()
    rig.engine.add(request("a"))
    rig.engine.step()
    rig.engine.add(request("b"))
    before = rig.engine.statistics.snapshot()["steps"]
    rig.engine.step()

    assert rig.engine.statistics.snapshot()["steps"] == before
