"""Which transports a worker has, and how its `Transfer` is put together."""

from collections.abc import Callable, Mapping

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.transfer.faults import TransferFaults, faults_from
from steelyard_runtime.transfer.interface import BlockMemory
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
        transports=_transports(config, engine_id, memory, environment, faults),
        faults=faults,
        on_event=on_event,
    )


def _transports(
    config: TransferConfig,
    engine_id: str,
    memory: BlockMemory,
    environment: Mapping[str, str],
    faults: TransferFaults | None,
) -> list[Transport]:
    if config.transport not in TRANSPORTS:
        allowed = ", ".join(TRANSPORTS)
        raise ConfigError(f"--kv-transport must be one of {allowed}, got '{config.transport}'")
    return [TcpTransport(memory, faults)]
