"""How leases live between two workers: heartbeats, ends, and who hears of them."""

import time

import pytest

from steelyard_runtime.transfer import peers
from steelyard_runtime.transfer.interface import LeaseEnded, PullDone, PullFailed
from steelyard_runtime.transfer.nixl_library import Agent


def test_a_lease_that_nobody_wants_runs_out(make_node, remote) -> None:
    """Without a reader the blocks come back after the lease; a late pull finds nothing."""
    prefill, decode = make_node(lease_seconds=0.2), make_node()
    params = prefill.transfer.export("r1", [1], 16)
    assert prefill.wait_for(LeaseEnded, "r1").reason == "expired"
    assert prefill.counter('steelyard:leases_total{end="expired"}') == 1
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullFailed, "d1").reason == "unknown_lease"


def test_a_held_lease_outlives_others(make_node, remote) -> None:
    """Heartbeats keep the lease of a request that waits for admission."""
    prefill, decode = make_node(lease_seconds=0.6), make_node(lease_seconds=0.6)
    params = prefill.transfer.export("held", [1], 16)
    decode.transfer.hold(remote(params))
    for name in ("first", "second", "third"):
        prefill.transfer.export(name, [2], 16)
        assert prefill.wait_for(LeaseEnded, name).reason == "expired"
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullDone, "d1").num_blocks == 1
    assert prefill.wait_for(LeaseEnded, "held").reason == "done"


def test_a_released_lease_ends_at_once(make_node, remote) -> None:
    """A request that never pulls gives its blocks back by `release`."""
    prefill, decode = make_node(), make_node()
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.hold(remote(params))
    decode.transfer.release(remote(params))
    assert prefill.wait_for(LeaseEnded, "r1").reason == "aborted"


def test_all_leases_end_when_the_worker_says_so(make_node, remote) -> None:
    """A drain whose time is over takes its blocks back, and the reader recomputes."""
    prefill, decode = make_node(), make_node()
    params = prefill.transfer.export("r1", [1], 16)
    prefill.transfer.export("r2", [2], 16)
    prefill.transfer.end_leases()
    assert prefill.wait_for(LeaseEnded, "r1").reason == "aborted"
    assert prefill.wait_for(LeaseEnded, "r2").reason == "aborted"
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullFailed, "d1").reason == "unknown_lease"


def test_a_slow_pull_keeps_its_lease(make_node, remote) -> None:
    """A pull that takes longer than the lease keeps it by heartbeats until its deadline."""
    prefill = make_node(lease_seconds=0.4)
    decode = make_node(lease_seconds=0.4, deadline_seconds=1.5, faults="stall")
    params = prefill.transfer.export("r1", [1, 2], 32)
    decode.transfer.pull("d1", remote(params), 0, [1, 2], 32)
    assert decode.wait_for(PullFailed, "d1").reason == "deadline"
    assert prefill.wait_for(LeaseEnded, "r1").reason == "aborted"


def test_a_full_local_hit_only_says_done(make_node, remote) -> None:
    """With all blocks cached on the decode side, nothing is read and the lease ends."""
    prefill, decode = make_node(), make_node()
    params = prefill.transfer.export("r1", [1, 2], 32)
    decode.transfer.pull("d1", remote(params), 2, [], 32)
    assert decode.wait_for(PullDone, "d1").num_blocks == 0
    assert prefill.wait_for(LeaseEnded, "r1").reason == "done"
    assert decode.counter('steelyard:kv_pulls_total{result="done"}') == 0


def test_a_partial_local_hit_reads_the_rest(make_node, remote, transport) -> None:
    """Blocks before `first_block` are not read."""
    prefill, decode = make_node(transport=transport), make_node(transport=transport)
    params = prefill.transfer.export("r1", [4, 5, 6], 48)
    decode.transfer.pull("d1", remote(params), 1, [8, 9], 48)
    decode.wait_for(PullDone, "d1")
    assert bytes(decode.memory.view(8)) == bytes(prefill.memory.view(5))
    assert bytes(decode.memory.view(9)) == bytes(prefill.memory.view(6))


def test_many_pulls_at_once(make_node, remote, transport) -> None:
    """More pulls than connections a peer gets are all done, each with its own blocks."""
    prefill = make_node(transport=transport, num_blocks=64)
    decode = make_node(transport=transport, num_blocks=64)
    for number in range(64):
        params = prefill.transfer.export(f"r{number}", [63 - number], 16)
        decode.transfer.pull(f"d{number}", remote(params), 0, [number], 16)
    for number in range(64):
        decode.wait_for(PullDone, f"d{number}")
        prefill.wait_for(LeaseEnded, f"r{number}")
    assert decode.memory.snapshot() == prefill.memory.snapshot()[::-1]
    used = decode.transfer.stats()[2].get("vllm:nixl_xfer_time_seconds", [])
    assert len(used) == (64 if transport == "nixl" else 0)


def test_a_prefill_worker_that_started_anew_is_reached(make_node, remote) -> None:
    """A kept connection to a worker that is gone is replaced by one to its successor."""
    first, decode = make_node(), make_node()
    params = first.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    first.wait_for(LeaseEnded, "r1")
    first.transfer.close()
    second = make_node(port=first.transfer.port)
    params = second.transfer.export("r2", [2], 16)
    decode.transfer.pull("d2", remote(params), 0, [2], 16)
    decode.wait_for(PullDone, "d2")
    assert bytes(decode.memory.view(2)) == bytes(second.memory.view(2))


def test_a_second_lease_of_a_request_is_refused(make_node) -> None:
    """Exporting a request twice is a mistake of the caller, named before anything is leased."""
    node = make_node()
    node.transfer.export("r1", [1], 16)
    with pytest.raises(ValueError, match="already has a lease"):
        node.transfer.export("r1", [2], 16)


def test_events_wake_the_step_thread(make_node, remote) -> None:
    """The engine is told of an event, so that it need not poll while it is idle."""
    woken: list[float] = []
    prefill = make_node(on_event=lambda: woken.append(time.monotonic()))
    decode = make_node()
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.release(remote(params))
    prefill.wait_for(LeaseEnded, "r1")
    assert len(woken) == 1


def test_without_a_token_pulls_work(make_node, remote) -> None:
    """Two workers without a token agree as well (a local test)."""
    prefill, decode = make_node(token=""), make_node(token="")
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullDone, "d1").num_blocks == 1


def test_a_peer_may_be_named(make_node, remote) -> None:
    """A host name is resolved, and its address is what must be allowed."""
    prefill, decode = make_node(advertise_host="localhost"), make_node()
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullDone, "d1").num_blocks == 1


def test_a_peer_that_is_not_asked_is_forgotten(make_node, remote, monkeypatch, until) -> None:
    """Connections to peers that are not used any more are closed."""
    monkeypatch.setattr(peers, "IDLE_SECONDS", 0.1)
    prefill, decode = make_node(lease_seconds=0.6), make_node(lease_seconds=0.6)
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    decode.wait_for(PullDone, "d1")
    until(lambda: prefill.gauge("steelyard:kv_connections") == 0, "closing the connections")


def test_tcp_takes_over_where_nixl_fails(make_node, remote, nixl, monkeypatch) -> None:
    """Where NIXL fails on a peer, this pull and the next ones go over TCP."""
    prefill, decode = make_node(transport=nixl), make_node(transport=nixl)

    def fail(*_: object) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(Agent, "read", fail)
    for name in ("first", "second"):
        params = prefill.transfer.export(name, [1], 16)
        decode.transfer.pull(name, remote(params), 0, [1], 16)
        decode.wait_for(PullDone, name)
    assert decode.counter("vllm:nixl_num_failed_transfers_total") == 1
