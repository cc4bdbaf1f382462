"""`kv_transfer_params`: the prefill side's forced shape, the decode side's pull, bad ones."""

from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig

pytestmark = pytest.mark.anyio

ASK = {"do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None}
ANSWER = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[3, 4]],
    "remote_engine_id": "engine-2",
    "remote_request_id": "r-1",
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
    "remote_num_tokens": 20,
    "transfer_mode": "pull",
    "steelyard": {"fingerprint": "ff"},
}


async def test_prefill_forces_one_plain_token(rig: Rig) -> None:
    """Whatever is asked, prefill makes one choice of one token, unstreamed, without bounds."""
    rig.engine.script = lambda _: Script(byte_ids("H"), kv_transfer_params=ANSWER)

    response = await rig.chat(
        kv_transfer_params=ASK,
        n=3,
        max_tokens=50,
        max_completion_tokens=60,
        min_tokens=7,
        stop=["H"],
        stop_token_ids=[72],
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=3,
        response_format={"type": "json_object"},
    )

    assert response.headers["content-type"] == "application/json"
    assert response.json()["kv_transfer_params"] == ANSWER
    (request,) = rig.engine.added
    assert request.export_kv
    params = request.params
    assert (params.max_tokens, params.min_tokens, params.logprobs) == (1, 0, None)
    assert (params.stop_token_ids, params.grammar) == ((), None)


async def test_prefill_of_several_prompts_exports_nothing(rig: Rig) -> None:
    """One answer holds one set of blocks: with several prompts decode recomputes."""
    answer = (await rig.complete(prompt=["a", "b"], kv_transfer_params=ASK)).json()

    assert "kv_transfer_params" not in answer
    assert [request.export_kv for request in rig.engine.added] == [False, False]


async def test_decode_pulls_for_the_first_choice(rig: Rig) -> None:
    """Prefill's object becomes a pull of the first choice; the others share its blocks."""
    await rig.complete(kv_transfer_params=ANSWER, n=2)

    first, second = rig.engine.added
    remote = first.remote_prefill
    assert remote is not None
    assert (remote.engine_id, remote.request_id) == ("engine-2", "r-1")
    assert (remote.host, remote.port, remote.block_ids) == ("127.0.0.1", 5600, [[3, 4]])
    assert (remote.num_tokens, remote.fingerprint) == (20, "ff")
    assert second.remote_prefill is None
    assert first.group_id == second.group_id


@pytest.mark.parametrize("params", [None, {}, {"do_remote_prefill": False}])
async def test_without_flags_nothing_is_transferred(
    rig: Rig, params: dict[str, Any] | None
) -> None:
    """An empty or switched-off object is as none."""
    await rig.complete(kv_transfer_params=params)

    request = rig.engine.added[0]
    assert (request.remote_prefill, request.export_kv) == (None, False)


@pytest.mark.parametrize(
    "change",
    [
        {"remote_engine_id": None},
        {"remote_engine_id": 5},
        {"remote_request_id": ""},
        {"remote_host": ["a"]},
        {"remote_port": "5600"},
        {"remote_port": 0},
        {"remote_port": True},
        {"remote_block_ids": None},
        {"remote_block_ids": [["a"]]},
        {"remote_block_ids": [[-1]]},
        {"remote_block_ids": {"0": []}},
        {"remote_num_tokens": -1},
        {"remote_num_tokens": 1.5},
        {"steelyard": []},
        {"steelyard": {"fingerprint": 1}},
        {"do_remote_decode": True},
        {"do_remote_prefill": "yes"},
    ],
    ids=str,
)
async def test_malformed_params_are_refused_by_name(rig: Rig, change: dict[str, Any]) -> None:
    """A wrong member of the object is a 400 that names it; nothing reaches the engine."""
    response = await rig.complete(kv_transfer_params={**ANSWER, **change})

    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("kv_transfer_params.")
    assert rig.engine.added == []
