"""The exchange of vLLM's toy proxy, step by step: what each side is sent and what it answers."""

import json
import uuid
from typing import Any

import pytest

from steelyard_runtime.testing.http_answers import (
    CHAT,
    COMPLETIONS,
    Json,
    added_up,
    comparable,
    events,
    post,
)
from steelyard_runtime.testing.services import Pair, settle

pytestmark = pytest.mark.model

MODEL = "smollm2"
TEXT = (
    "The cartographer refused to draw the valley. He had walked it twice, he said, and each time "
    "the stream had been on another side of the road, the chapel had changed its roof, and the "
    "shepherd who showed him the way had been a little older than the sun would have allowed. "
)
BLOCK_TOKENS = 16


def prefill_leg(pair: Pair, path: str, body: Json, request_id: str) -> Json:
    """Send what the toy proxy sends to the prefill worker; return its whole answer."""
    sent = {name: value for name, value in body.items() if name != "stream_options"}
    sent |= {"stream": False, "max_tokens": 1}
    if "max_completion_tokens" in sent:
        sent["max_completion_tokens"] = 1
    sent["kv_transfer_params"] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    answer: Json = json.loads(
        post(pair.prefill.url + path, sent, headers={"X-Request-Id": request_id})
    )
    return answer


def decode_leg(pair: Pair, path: str, body: Json, params: Json, request_id: str) -> Json:
    """Send the client's body with the prefill's parameters to the decode worker."""
    sent = {**body, "kv_transfer_params": params}
    raw = post(pair.decode.url + path, sent, headers={"X-Request-Id": request_id})
    return added_up(events(raw)) if body.get("stream") else json.loads(raw)


@pytest.fixture(params=["tcp_pair", "nixl_pair"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each transport in turn."""
    found: Pair = request.getfixturevalue(request.param)
    return found


def completion(salt: str, **fields: Any) -> tuple[str, Json]:
    """Return a completion with its own place in the cache."""
    body = {"model": MODEL, "prompt": TEXT, "max_tokens": 5, "temperature": 0, "cache_salt": salt}
    return COMPLETIONS, body | fields


def chat(salt: str, **fields: Any) -> tuple[str, Json]:
    """Return a chat with its own place in the cache."""
    messages = [{"role": "user", "content": TEXT}]
    body = {"model": MODEL, "messages": messages, "temperature": 0, "cache_salt": salt}
    return CHAT, {**body, "max_completion_tokens": 5, **fields}


def test_prefill_answers_with_vllms_parameters(pair: Pair) -> None:
    """The answer has one token and a top-level `kv_transfer_params` of exactly these fields."""
    path, body = completion(uuid.uuid4().hex, n=3, stop=["a"], logprobs=2, max_tokens=50)
    answer = prefill_leg(pair, path, body, "toy-fields")

    (choice,) = answer["choices"]
    params = answer["kv_transfer_params"]
    tokens = answer["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 1
    assert choice["finish_reason"] == "length"
    (blocks,) = params["remote_block_ids"]
    assert len(blocks) == -(-tokens // BLOCK_TOKENS)
    assert params == {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [blocks],
        "remote_engine_id": pair.prefill.state()["engineId"],
        "remote_request_id": params["remote_request_id"],
        "remote_host": "127.0.0.1",
        "remote_port": pair.prefill.kv_port,
        "tp_size": 1,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": tokens,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
        "steelyard": {"fingerprint": pair.prefill.state()["fingerprint"]},
    }

    # Fetch them, or the lease would hold them until it ends.
    decode_leg(pair, path, body, params, "toy-fields")
    settle(pair.prefill, pair.decode)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("make", [completion, chat])
def test_decode_goes_on_from_the_prefills_blocks(pair: Pair, make: Any, stream: bool) -> None:
    """The answer is the one without a prefill worker; blocks were fetched and given back."""
    own = uuid.uuid4().hex
    path, body = make(own, **({"stream": True} if stream else {}))
    before, ended = pair.pulls, pair.prefill.metric("steelyard:leases_total", end="done")

    prefilled = prefill_leg(pair, path, body, own)
    given = decode_leg(pair, path, body, prefilled["kv_transfer_params"], own)
    settle(pair.prefill, pair.decode)

    alone_path, alone_body = make(f"{own} alone", **({"stream": True} if stream else {}))
    raw = post(pair.decode.url + alone_path, alone_body)
    alone = added_up(events(raw)) if stream else json.loads(raw)
    assert comparable(given) == comparable(alone)
    assert pair.pulls - before == 1
    assert pair.prefill.metric("steelyard:leases_total", end="done") - ended == 1
    assert not any(pair.failures.values()), pair.failures


def test_parameters_without_our_own_object_are_enough(pair: Pair) -> None:
    """A router that keeps only vLLM's fields drives the workers as well."""
    path, body = completion(uuid.uuid4().hex)
    before = pair.pulls

    params = prefill_leg(pair, path, body, "bare")["kv_transfer_params"]
    params.pop("steelyard")
    decode_leg(pair, path, body, params, "bare")

    assert pair.pulls - before == 1


def test_a_full_prefix_on_decode_needs_no_blocks(pair: Pair) -> None:
    """Where decode has the whole prompt it fetches nothing, and prefill's blocks are free again."""
    path, body = completion(uuid.uuid4().hex)
    first = prefill_leg(pair, path, body, "full-1")["kv_transfer_params"]
    once = decode_leg(pair, path, body, first, "full-1")
    moved = pair.decode.metric("steelyard:kv_pull_bytes_total")

    second = prefill_leg(pair, path, body, "full-2")["kv_transfer_params"]
    again = decode_leg(pair, path, body, second, "full-2")
    settle(pair.prefill, pair.decode)

    assert comparable(again) == comparable(once)
    assert pair.decode.metric("steelyard:kv_pull_bytes_total") == moved
