"""The listening socket: strangers, broken peers and greedy peers hurt nobody else."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard_runtime.testing.raw_peer import HELLO, RawPeer
from steelyard_runtime.transfer import codec, exporter
from steelyard_runtime.transfer.interface import LeaseEnded, PullDone
from steelyard_runtime.transfer.messages import (
    Done,
    Ended,
    Failure,
    Open,
    Opened,
    Read,
    Reading,
    Renew,
    Welcome,
)


@pytest.fixture
def client():
    """Connect by hand; what is still open is closed after the test."""
    clients: list[RawPeer] = []

    def connect(port: int, token: str = "token") -> RawPeer:
        clients.append(RawPeer(port, token))
        return clients[-1]

    yield connect
    for each in clients:
        each.socket.close()


def rejected(node, reason: str) -> float:
    return node.counter(f'steelyard:kv_connections_rejected_total{{reason="{reason}"}}')


def closed_by_worker(sock: socket.socket) -> bool:
    """Whether the worker closes the connection; waits for it."""
    sock.settimeout(10)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def end_sending(sock: socket.socket) -> None:
    """Half-close, unless the worker has closed the connection already."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def test_the_protocol_by_hand(make_node, client) -> None:
    """A peer that knows the token opens a lease, reads its bytes and ends it."""
    node = make_node()
    node.transfer.export("r1", [3, 4], 32)
    peer = client(node.transfer.port)
    assert isinstance(peer.ask(HELLO), Welcome)
    opened = peer.ask(Open("r1", 1, 1))
    assert isinstance(opened, Opened)
    assert (opened.num_tokens, opened.block_ids) == (32, [4])
    reading = peer.ask(Read("r1", opened.lease_id, 1, 1))
    assert reading == Reading(node.memory.block_bytes)
    assert peer.exactly(reading.num_bytes) == bytes(node.memory.view(4))
    assert peer.ask(Done("r1")) == Ended([])
    assert node.wait_for(LeaseEnded, "r1").reason == "done"
    assert peer.ask(Done("r1")) == Ended(["r1"])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Open("nobody", 0, 1), "unknown_lease"),
        (Open("r1", 1, 2), "range"),
        (Read("r1", "an-older-lease", 0, 1), "unknown_lease"),
        (HELLO, "protocol"),
    ],
)
def test_requests_that_cannot_be_served_keep_the_connection(
    make_node, client, message, code
) -> None:
    """A wrong request is answered with a failure by name, and the next one is served."""
    node = make_node()
    node.transfer.export("r1", [3, 4], 32)
    peer = client(node.transfer.port)
    peer.ask(HELLO)
    reply = peer.ask(message)
    assert isinstance(reply, Failure)
    assert reply.code == code
    assert peer.ask(Renew(["r1", "nobody"])) == Ended(["nobody"])


def test_another_token_gets_no_answer(make_node, client, until) -> None:
    """A peer with a wrong token is closed without learning anything."""
    node = make_node()
    peer = client(node.transfer.port, "wrong")
    peer.send(peer.sealer.seal(HELLO))
    assert closed_by_worker(peer.socket)
    until(lambda: rejected(node, "mac") == 1, "counting the rejection")


def test_a_recorded_connection_cannot_be_played_again(make_node, client, until) -> None:
    """The bytes of a good connection are refused on the next one."""
    node = make_node()
    node.transfer.export("r1", [3], 16)
    peer = client(node.transfer.port)
    peer.ask(HELLO)
    peer.ask(Renew(["r1"]))
    with socket.create_connection(("127.0.0.1", node.transfer.port)) as replay:
        replay.sendall(peer.sent)
        assert closed_by_worker(replay)
    until(lambda: rejected(node, "mac") == 1, "counting the rejection")


def test_something_else_than_hello_first_is_refused(make_node, client, until) -> None:
    """Even an authenticated peer says who it is before it asks."""
    node = make_node()
    peer = client(node.transfer.port)
    peer.send(peer.sealer.seal(Renew(["r1"])))
    assert closed_by_worker(peer.socket)
    until(lambda: rejected(node, "protocol") == 1, "counting the rejection")


@pytest.mark.parametrize("sent", [b"", b"SYKV", b"SYKV\x01" + b"n" * 32, "half a frame"])
def test_a_peer_that_falls_silent_is_closed(make_node, client, monkeypatch, until, sent) -> None:
    """Every read has a deadline: a connection that stops midway is closed and counted."""
    node = make_node()
    if isinstance(sent, str):
        peer = client(node.transfer.port)
        peer.ask(HELLO)  # before the deadline is short: a busy machine may not keep it
        monkeypatch.setattr(exporter, "HANDSHAKE_SECONDS", 0.2)
        peer.send(peer.sealer.seal(Renew(["r1"]))[:-1])
        sock = peer.socket
    else:
        monkeypatch.setattr(exporter, "HANDSHAKE_SECONDS", 0.2)
        sock = socket.create_connection(("127.0.0.1", node.transfer.port))
        sock.sendall(sent)
    with sock:
        assert closed_by_worker(sock)
    until(lambda: rejected(node, "deadline") == 1, "counting the rejection")


def test_connections_are_bounded(make_node, monkeypatch, until) -> None:
    """One connection too many is closed at once, and others are served after some are gone."""
    monkeypatch.setattr(exporter, "MAX_CONNECTIONS", 3)
    node = make_node()
    held = [socket.create_connection(("127.0.0.1", node.transfer.port)) for _ in range(3)]
    until(lambda: node.gauge("steelyard:kv_connections") == 3, "accepting")
    with socket.create_connection(("127.0.0.1", node.transfer.port)) as extra:
        assert closed_by_worker(extra)
    assert rejected(node, "connections") == 1
    for sock in held:
        sock.close()
    until(lambda: node.gauge("steelyard:kv_connections") == 0, "letting go")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"SYKV\x01" + b)))
def test_garbage_from_strangers_changes_nothing(shared, data) -> None:
    """Whatever bytes come without the token, the lease and the worker stay."""
    with socket.create_connection(("127.0.0.1", shared.transfer.port)) as sock:
        sock.sendall(data)
        end_sending(sock)
        assert closed_by_worker(sock)
    assert shared.gauge("steelyard:kv_leases") == 1


@pytest.fixture
def shared(make_node):
    node = make_node()
    node.transfer.export("kept", [1], 16)
    return node


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_garbage_from_a_peer_with_the_token_changes_nothing(shared, body, cut) -> None:
    """An authenticated peer that sends nonsense or half frames loses its connection only."""
    peer = RawPeer(shared.transfer.port, "token")
    with peer.socket:
        peer.ask(HELLO)
        header = codec.HEADER.pack(len(body))
        mac = codec._mac(peer.sealer._key, peer.sealer._counter, header, body)
        peer.send((header + body + mac)[:cut])
        end_sending(peer.socket)
        assert closed_by_worker(peer.socket)
    assert shared.gauge("steelyard:kv_leases") == 1


def test_after_all_that_pulls_work(make_node, remote) -> None:
    """A worker that saw garbage still serves its lease to a decode worker."""
    prefill, decode = make_node(), make_node()
    for number in range(20):
        with socket.create_connection(("127.0.0.1", prefill.transfer.port)) as sock:
            sock.sendall(os.urandom(number * 7))
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert decode.wait_for(PullDone, "d1").num_blocks == 1


def test_a_reader_that_leaves_midway_gives_the_lease_back(make_node, client) -> None:
    """A decode worker that dies while it reads costs the prefill side one lease time."""
    node = make_node(lease_seconds=0.5, block_bytes=4 * 1024 * 1024, num_blocks=8)
    node.transfer.export("r1", list(range(8)), 128)
    peer = client(node.transfer.port)
    peer.ask(HELLO)
    opened = peer.ask(Open("r1", 0, 8))
    assert isinstance(opened, Opened)
    peer.ask(Read("r1", opened.lease_id, 0, 8))
    peer.exactly(1000)
    peer.socket.close()
    assert node.wait_for(LeaseEnded, "r1").reason == "expired"


def test_a_reader_that_stops_reading_is_cut_off(make_node, client) -> None:
    """A read pins its lease for the deadline at most, however slow the reader is."""
    node = make_node(
        lease_seconds=0.3, deadline_seconds=0.6, block_bytes=4 * 1024 * 1024, num_blocks=8
    )
    node.transfer.export("r1", list(range(8)), 128)
    peer = client(node.transfer.port)
    peer.ask(HELLO)
    opened = peer.ask(Open("r1", 0, 8))
    assert isinstance(opened, Opened)
    peer.ask(Read("r1", opened.lease_id, 0, 8))
    assert node.wait_for(LeaseEnded, "r1").reason == "expired"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_after_close(make_node, remote, transport, until) -> None:
    """Threads and descriptors of two workers that talked to each other are gone after close."""
    warm = make_node(transport=transport)
    warm.transfer.close()
    threads, descriptors = threading.active_count(), open_descriptors()
    for number in range(3):
        prefill, decode = make_node(transport=transport), make_node(transport=transport)
        params = prefill.transfer.export("r1", [1], 16)
        decode.transfer.pull("d1", remote(params), 0, [1], 16)
        decode.wait_for(PullDone, "d1")
        prefill.transfer.export(f"kept{number}", [1], 16)
        decode.transfer.close()
        prefill.transfer.close()
        assert prefill.wait_for(LeaseEnded, f"kept{number}").reason == "aborted"
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors
