"""A worker without a service token that other machines reach: no KV moves."""

import socket

import pytest

from steelyard_runtime.server.flags import parse
from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.testing.transfer_peer import remote_prefill
from steelyard_runtime.transfer.interface import LeaseEnded, PullFailed, PullSettled
from steelyard_runtime.transfer.registry import make_transfer

FLAGS = ["--model", "m", "--kv-port", "0"]


@pytest.mark.parametrize(
    ("host", "token", "enabled"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", True),
        ("::1", "", True),
        ("0.0.0.0", "", False),
        ("::", "", False),
        ("10.1.2.3", "", False),
        ("worker.example", "", False),
        ("0.0.0.0", "t", True),
    ],
)
def test_off_loopback_kv_needs_a_token(host: str, token: str, enabled: bool) -> None:
    """Only a loopback address or a token lets KV move."""
    environment = {"STEELYARD_SERVICE_TOKEN": token} if token else {}
    _, engine = parse([*FLAGS, "--host", host], environment)

    assert engine.transfer.enabled is enabled


def test_disabled_transfer_listens_nowhere_and_ends_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No socket is bound; exports end at once, pulls fail at once and settle."""
    monkeypatch.setattr(socket.socket, "bind", _must_not_bind)
    _, engine = parse([*FLAGS, "--host", "0.0.0.0"], {})
    transfer = make_transfer(
        engine.transfer,
        engine_id="e",
        fingerprint="f",
        memory=PlainBlockMemory(4, 1024),
        environment={},
    )
    transfer.start()
    params = transfer.export("exported", [0], 16)
    remote = remote_prefill(
        {
            "remote_block_ids": [[0]],
            "remote_engine_id": "e",
            "remote_request_id": "r",
            "remote_host": "127.0.0.1",
            "remote_port": 1,
            "remote_num_tokens": 16,
            "steelyard": {"fingerprint": "f"},
        }
    )
    transfer.hold(remote)
    transfer.pull("pulled", remote, 0, [1], 16)
    events = transfer.events()
    transfer.close()

    assert (transfer.port, params) == (0, {"do_remote_prefill": False, "do_remote_decode": False})
    assert [type(event) for event in events] == [LeaseEnded, PullFailed, PullSettled]


def _must_not_bind(sock: socket.socket, address: object) -> None:
    raise AssertionError(f"something was bound to {address}")
