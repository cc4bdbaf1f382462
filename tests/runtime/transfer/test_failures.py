"""Every reason for which a pull fails: it is named, it settles once, and nothing stays held."""

import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from steelyard_runtime.transfer.interface import (
    LeaseEnded,
    PullDone,
    PullFailed,
    PullSettled,
)


def failed(node, request_id: str) -> str:
    """Wait until a pull has failed and settled; return the reason."""
    node.wait_for(PullSettled, request_id)
    kinds = [type(event) for event in node.seen if event.request_id == request_id]
    assert kinds == [PullFailed, PullSettled]
    reason = node.wait_for(PullFailed, request_id).reason
    assert node.counter(f'steelyard:kv_pull_failures_total{{reason="{reason}"}}') == 1
    return reason


def changed(remote, params, **changes):
    return msgspec.structs.replace(remote(params), **changes)


@dataclass
class Case:
    """How the two workers and the pull differ from a pull that works."""

    reason: str
    there: dict[str, Any] = field(default_factory=dict)
    here: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("fingerprint", there={"fingerprint": "a" * 64}, asked={"fingerprint": None}),
    Case("fingerprint", there={"fingerprint": "a" * 64}),
    Case("fingerprint", there={"block_bytes": 4096}),
    Case("handshake", there={"token": "another"}),
    Case("handshake", asked={"engine_id": "somebody-else"}),
    Case("unknown_lease", asked={"request_id": "unknown"}),
    Case("token_count", asked={"num_tokens": 31}),
    Case("peer_not_allowed", here={"peers": ("10.0.0.0/8",)}),
    Case("connect", asked={"host": "host.invalid"}),
    Case("connect", asked={"host": "." * 300}),
    Case("connect", asked={"host": "a\0b"}),
    Case("connect", asked={"host": ""}),
    Case("connect", asked={"port": 99999}),
    Case("connect", asked={"port": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pull_names_its_failure(make_node, remote, case) -> None:
    """What is wrong with a pull is its reason, and no byte of the pool changes."""
    prefill, decode = make_node(**case.there), make_node(**case.here)
    before = decode.memory.snapshot()
    params = prefill.transfer.export("r1", [1, 2], 32)
    decode.transfer.pull("d1", changed(remote, params, **case.asked), 0, [3, 4], 32)
    assert failed(decode, "d1") == case.reason
    assert decode.memory.snapshot() == before


def test_another_prompt_length_is_refused_by_the_lease(make_node, remote) -> None:
    """The lease's own token count is compared, not only the one that came through the router."""
    prefill, decode = make_node(), make_node()
    params = prefill.transfer.export("r1", [1, 2], 32)
    decode.transfer.pull("d1", changed(remote, params, num_tokens=None), 0, [3, 4], 31)
    assert failed(decode, "d1") == "token_count"
    assert prefill.wait_for(LeaseEnded, "r1").reason == "aborted"


def test_more_blocks_than_the_lease_has_are_refused(make_node, remote) -> None:
    """A pull past the end of the lease fails instead of reading other blocks."""
    prefill, decode = make_node(), make_node()
    params = prefill.transfer.export("r1", [1, 2], 32)
    decode.transfer.pull("d1", remote(params), 1, [3, 4], 32)
    assert failed(decode, "d1") == "transfer"


@pytest.mark.parametrize(("fault", "reason"), [("cut", "transfer"), ("corrupt", "checksum")])
def test_a_broken_transfer_ends_the_lease(make_node, remote, transport, fault, reason) -> None:
    """A transfer that is cut or corrupted fails by name and the prefill side frees at once."""
    prefill = make_node(transport=transport)
    decode = make_node(transport=transport, faults=fault)
    params = prefill.transfer.export("r1", [1, 2, 3], 48)
    decode.transfer.pull("d1", remote(params), 0, [3, 4, 5], 48)
    assert failed(decode, "d1") == reason
    assert prefill.wait_for(LeaseEnded, "r1").reason == "aborted"


def test_a_block_that_changed_after_the_export_is_noticed(make_node, remote) -> None:
    """Blocks reused too early on the prefill side fail the checksum on the decode side."""
    prefill, decode = make_node(), make_node(faults="stall", deadline_seconds=10)
    params = prefill.transfer.export("r1", [1, 2, 3], 48)
    decode.transfer.pull("d1", remote(params), 0, [3, 4, 5], 48)
    decode.transfer.cancel("d1")
    assert failed(decode, "d1") == "cancelled"
    reader = make_node()
    params = prefill.transfer.export("r2", [1, 2, 3], 48)
    prefill.transfer.export("wait", [4], 16)
    reader.transfer.pull("w", remote(params | {"remote_request_id": "wait"}), 0, [1], 48)
    reader.wait_for(PullSettled, "w")  # checksums of r2 are made in the order of exports
    prefill.memory.view(2)[7] ^= 1
    reader.transfer.pull("d2", remote(params), 0, [3, 4, 5], 48)
    assert reader.wait_for(PullFailed, "d2").reason == "checksum"


def test_a_stalled_peer_costs_the_deadline_and_nobody_else(make_node, remote) -> None:
    """A pull whose peer stalls midway fails at the deadline; pulls from others go on meanwhile."""
    silent, stop = silent_server()
    prefill, decode = make_node(), make_node(deadline_seconds=1)
    params = prefill.transfer.export("r1", [1], 16)
    stuck = changed(remote, params, port=silent)
    for number in range(20):
        decode.transfer.pull(f"s{number}", stuck, 0, [2], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    decode.wait_for(PullDone, "d1")
    for number in range(20):
        decode.wait_for(PullSettled, f"s{number}")
        assert decode.wait_for(PullFailed, f"s{number}").reason == "deadline"
    stop()


def silent_server():
    """Listen and never answer; returns the port and what ends it."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        try:
            while True:
                held.append(listener.accept()[0])
        except OSError:
            pass

    thread = threading.Thread(target=accept)
    thread.start()

    def stop() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for sock in held:
            sock.close()

    return listener.getsockname()[1], stop


def test_a_stall_midway_settles_at_the_deadline(make_node, remote, transport) -> None:
    """A transfer that stops in the middle fails with the deadline and is settled at once."""
    prefill = make_node(transport=transport)
    decode = make_node(transport=transport, faults="stall", deadline_seconds=0.5)
    params = prefill.transfer.export("r1", [1, 2, 3], 48)
    decode.transfer.pull("d1", remote(params), 0, [3, 4, 5], 48)
    assert failed(decode, "d1") == "deadline"


def test_cancel_before_anything_happened(make_node, remote, transport) -> None:
    """A pull that is cancelled before the peer is asked fails and settles, once each."""
    prefill = make_node(transport=transport)
    decode = make_node(transport=transport, faults="hold")
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    decode.transfer.cancel("d1")
    decode.transfer.cancel("d1")
    assert failed(decode, "d1") == "cancelled"


def test_faults_can_be_switched_by_a_file(make_node, remote, tmp_path) -> None:
    """A test-only fault named in a file acts from the next pull on, and stops with the file."""
    fault = tmp_path / "fault"
    prefill, decode = make_node(), make_node(faults=f"@{fault}")
    for number, (content, kind) in enumerate([("", PullDone), ("cut", PullFailed), ("", PullDone)]):
        fault.write_text(content)
        params = prefill.transfer.export(f"r{number}", [1, 2], 32)
        decode.transfer.pull(f"d{number}", remote(params), 0, [1, 2], 32)
        decode.wait_for(kind, f"d{number}")


def test_cancel_of_an_unknown_pull_is_nothing(make_node) -> None:
    """Cancelling what is over or never was does nothing."""
    node = make_node()
    node.transfer.cancel("nobody")
    node.transfer.close()
    assert node.take() == []
