"""Which transports a worker has, and how its `Transfer` is put together."""

from collections.abc import Callable, Mapping

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.transfer.faults import TransferFaults, faults_from
from steelyard_runtime.transfer.interface import BlockMemory
from steelyard_runtime.transfer.nixl import NixlTransport
from steelyard_runtime.transfer.nixl_library import is_installed
from steelyard_runtime.transfer.tcp import TcpTransport
from steelyard_runtime.transfer.transport import Transport
from steelyard_runtime.transfer.worker import TransferWorker

TRANSPORTS = ("auto", "tcp", "nixl")


def make_transfer(
    config: TransferConfig,
    *,
    engine_id: str,
    fingerprint: str,
    memory: BlockMemory,
    environment: Mapping[str, str],
    on_event: Callable[[], None] | None = None,
) -> TransferWorker:
    """Return the worker's `Transfer`, not started.

    `on_event` is called on the transfer thread after each event; it must not block.

    Raises:
        ConfigError: the configuration names an unknown transport or address range.
    """
    faults = faults_from(environment)
    return TransferWorker(
        config,
        engine_id=engine_id,
        fingerprint=fingerprint,
        memory=memory,
        transports=_transports(config, engine_id, memory, faults),
        faults=faults,
        on_event=on_event,
    )


def _transports(
    config: TransferConfig,
    engine_id: str,
    memory: BlockMemory,
    faults: TransferFaults | None,
) -> list[Transport]:
    """Return the transports in the order of preference; TCP is always the last resort."""
    if config.transport not in TRANSPORTS:
        allowed = ", ".join(TRANSPORTS)
        raise ConfigError(f"--kv-transport must be one of {allowed}, got '{config.transport}'")
    tcp = TcpTransport(memory, faults)
    if config.transport == "tcp" or (config.transport == "auto" and not is_installed()):
        return [tcp]
    nixl = NixlTransport(
        memory,
        engine_id=engine_id,
        # A read that does not end costs at most half a lease: see `nixl_thread.py`.
        recycle_seconds=config.lease_seconds / 4,
        everywhere=config.transport == "nixl",
        faults=faults,
    )
    return [nixl, tcp]
