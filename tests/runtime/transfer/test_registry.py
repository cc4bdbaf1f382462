"""Configuration of KV transfer: what is refused, and in which words."""

import socket

import pytest

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.transfer import nixl_library
from steelyard_runtime.transfer.registry import make_transfer


def make(faults: str = "", **config):
    return make_transfer(
        TransferConfig(**({"transport": "tcp", "port": 0} | config)),
        engine_id="e",
        fingerprint="f",
        memory=PlainBlockMemory(1, 4096),
        environment={"STEELYARD_TEST_FAULTS": faults},
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"transport": "rdma"}, "--kv-transport must be one of auto, tcp, nixl, got 'rdma'"),
        ({"peers": ("everybody",)}, "--kv-peers must be address ranges.*everybody"),
        ({"faults": "explode"}, "STEELYARD_TEST_FAULTS must be one of.*explode"),
    ],
)
def test_wrong_settings_are_named(config, sentence) -> None:
    """A wrong value is refused with the flag, the value and what is allowed."""
    with pytest.raises(ConfigError, match=sentence):
        make(**config)


def test_a_port_in_use_is_named() -> None:
    """Starting on a port that somebody else has fails with the flag and the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        transfer = make(port=port)
        with pytest.raises(ConfigError, match=f"--kv-port {port} .*Address already in use"):
            transfer.start()
        transfer.close()


def test_an_address_of_another_machine_is_named() -> None:
    """Listening where this machine has no address fails with the address."""
    transfer = make(listen_host="192.0.2.1")
    with pytest.raises(ConfigError, match=r"--kv-host 192\.0\.2\.1"):
        transfer.start()
    transfer.close()


@pytest.mark.parametrize(("transport", "starts"), [("nixl", False), ("auto", True)])
def test_without_nixl_auto_is_tcp(monkeypatch, transport, starts) -> None:
    """Where NIXL cannot be loaded, `auto` works over TCP and `nixl` says what to install."""
    monkeypatch.setattr(nixl_library, "PACKAGES", ("no_such_nixl",))
    transfer = make(transport=transport)
    if starts:
        transfer.start()
    else:
        with pytest.raises(ConfigError, match="pip install"):
            transfer.start()
    transfer.close()


def test_close_before_start_is_nothing() -> None:
    """A transfer that was never started closes without a trace."""
    make().close()
