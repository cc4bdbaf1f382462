"""A prefill process that stops, continues or dies while a decode worker pulls from it."""

import signal
from pathlib import Path

from steelyard_runtime.transfer.interface import (
    LeaseEnded,
    PullDone,
    PullFailed,
    PullSettled,
)

LARGE = {"num_blocks": 128, "block_bytes": 512 * 1024}
BLOCKS = list(range(100))


def started_landing(node, request_id: str) -> bool:
    """Whether bytes of a pull into blocks of zeros have come, or the pull is over."""
    over = any(event.request_id == request_id for event in node.take())
    return over or any(node.memory.view(block)[0] for block in BLOCKS)


def clear(node) -> None:
    for block in BLOCKS:
        node.memory.view(block)[:] = bytes(node.memory.block_bytes)


def test_blocks_move_between_processes(make_peer, make_node, transport) -> None:
    """A pull from another process brings the bytes and changes no other block."""
    peer, decode = make_peer(transport=transport), make_node(transport=transport)
    before = decode.memory.snapshot()
    decode.transfer.pull("d1", peer.export("r1", [5, 2, 9]), 0, [1, 7, 3], 48)
    assert decode.wait_for(PullDone, "d1").num_blocks == 3
    for ours, theirs in zip([1, 7, 3], [5, 2, 9], strict=True):
        before[ours] = bytes(peer.memory.view(theirs))
    assert decode.memory.snapshot() == before
    used = decode.transfer.stats()[2].get("vllm:nixl_xfer_time_seconds", [])
    assert len(used) == (transport == "nixl")


def test_a_stopped_prefill_process(make_peer, make_node, until, transport) -> None:
    """Past the deadline the pull fails and settles; nothing lands later; then pulls work again."""
    peer = make_peer(transport=transport, lease_seconds=1)
    decode = make_node(transport=transport, lease_seconds=1, deadline_seconds=0.5)
    decode.transfer.pull("warm", peer.export("r0", [1]), 0, [1], 16)
    decode.wait_for(PullDone, "warm")
    remote = peer.export("r1", [2, 3])
    peer.signal(signal.SIGSTOP)
    decode.transfer.pull("d1", remote, 0, [2, 3], 32)
    assert decode.wait_for(PullFailed, "d1").reason == "deadline"
    decode.wait_for(PullSettled, "d1", seconds=1)
    before = decode.memory.snapshot()
    peer.signal(signal.SIGCONT)
    until(lambda: peer.ask({"events": True})["stats"]["steelyard:kv_leases"] == 0, "lease's end")
    assert decode.memory.snapshot() == before
    decode.transfer.pull("d2", peer.export("r2", [4]), 0, [4], 16)
    decode.wait_for(PullDone, "d2")


def test_a_prefill_process_that_stops_midway(make_peer, make_node, until) -> None:
    """A TCP transfer that stops in the middle settles at once; what is sent later is lost."""
    peer = make_peer(lease_seconds=2, **LARGE)
    decode = make_node(lease_seconds=2, deadline_seconds=1, **LARGE)
    clear(decode)
    decode.transfer.pull("d1", peer.export("r1", BLOCKS), 0, BLOCKS, 1600)
    until(lambda: started_landing(decode, "d1"), "the first bytes")
    peer.signal(signal.SIGSTOP)
    assert decode.wait_for(PullFailed, "d1").reason == "deadline"
    decode.wait_for(PullSettled, "d1", seconds=1)
    before = decode.memory.snapshot()
    peer.signal(signal.SIGCONT)
    until(lambda: peer.ask({"events": True})["stats"]["steelyard:kv_leases"] == 0, "lease's end")
    assert decode.memory.snapshot() == before


def test_a_prefill_process_that_dies_midway(make_peer, make_node, until) -> None:
    """A TCP transfer whose prefill process is killed fails and settles without the deadline."""
    peer, decode = make_peer(**LARGE), make_node(**LARGE)
    clear(decode)
    decode.transfer.pull("d1", peer.export("r1", BLOCKS), 0, BLOCKS, 1600)
    until(lambda: started_landing(decode, "d1"), "the first bytes")
    peer.signal(signal.SIGKILL)
    assert decode.wait_for(PullFailed, "d1").reason == "transfer"
    decode.wait_for(PullSettled, "d1")


def test_a_prefill_process_that_died(make_peer, make_node, transport) -> None:
    """A pull from a process that was killed fails, settles, and leaves no shared memory."""
    segments = set(Path("/dev/shm").iterdir())
    peer, decode = make_peer(transport=transport), make_node(transport=transport)
    decode.transfer.pull("warm", peer.export("r0", [1]), 0, [1], 16)
    decode.wait_for(PullDone, "warm")
    remote = peer.export("r1", [2, 3])
    peer.stop()
    decode.transfer.pull("d1", remote, 0, [2, 3], 32)
    assert decode.wait_for(PullFailed, "d1").reason in {"connect", "handshake"}
    decode.wait_for(PullSettled, "d1")
    assert set(Path("/dev/shm").iterdir()) <= segments
    assert f" {peer.process.pid} " not in Path("/proc/sysvipc/shm").read_text()


def test_a_decode_process_that_dies_midway(make_peer, make_node, remote, until, transport) -> None:
    """A decode process that is killed while it reads costs its leases' time and nothing else."""
    prefill = make_node(transport=transport, lease_seconds=1, **LARGE)
    peer = make_peer(transport=transport, lease_seconds=1, **LARGE)
    before = prefill.memory.snapshot()
    for number in range(8):
        params = prefill.transfer.export(f"r{number}", BLOCKS[:12], 192)
        peer.ask({"pull": [f"d{number}", params, BLOCKS[:12], 192]})
    until(lambda: prefill.gauge("steelyard:kv_connections") > 0, "the first connection")
    peer.signal(signal.SIGKILL)
    for number in range(8):
        prefill.wait_for(LeaseEnded, f"r{number}")
    assert prefill.memory.snapshot() == before
    decode = make_node(transport=transport, **LARGE)
    params = prefill.transfer.export("after", [1], 16)
    decode.transfer.pull("after", remote(params), 0, [1], 16)
    decode.wait_for(PullDone, "after")


def test_a_stuck_nixl_read_is_quarantined_until_its_agent_is_gone(
    make_peer, make_node, until, nixl, monkeypatch
) -> None:
    """A read over UCX's TCP that timed out settles by recycling the agent; nothing lands after."""
    monkeypatch.setenv("UCX_TLS", "tcp")
    peer = make_peer(transport=nixl, lease_seconds=2, environment={"UCX_TLS": "tcp"}, **LARGE)
    decode = make_node(transport=nixl, lease_seconds=2, deadline_seconds=1, **LARGE)
    clear(decode)
    decode.transfer.pull("d1", peer.export("r1", BLOCKS), 0, BLOCKS, 1600)
    until(lambda: started_landing(decode, "d1"), "the first bytes")
    peer.signal(signal.SIGSTOP)
    assert decode.wait_for(PullFailed, "d1").reason == "deadline"
    decode.wait_for(PullSettled, "d1", seconds=2)
    assert decode.counter("steelyard:kv_nixl_agents_recycled_total") == 1
    before = decode.memory.snapshot()
    peer.signal(signal.SIGCONT)
    # UCX's TCP emulation may abort the prefill process here, or not: either way it is over.
    until(lambda: peer.process.poll() is not None or answers(peer), "the peer to go on")
    assert decode.memory.snapshot() == before


def answers(peer) -> bool:
    """Whether a process that was continued has worked off what was asked of it."""
    try:
        return peer.ask({"events": True})["stats"]["steelyard:kv_leases"] == 0
    except (OSError, ValueError):
        return False
