"""NIXL, loaded on demand and wrapped so thinly that its types stay in this file.

What UCX reads from the environment is set here, before the import, unless the operator of the
machine has set it. Nothing else in the runtime imports NIXL.
"""

import importlib
import importlib.util
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.transfer.interface import BlockMemory

PACKAGES = ("nixl_cu13", "nixl_cu12")
# Peers that an agent is connected to; the oldest is forgotten. Workers come and go for months.
MAX_PEERS = 256

DEFAULTS: Mapping[str, str] = {
    # All transports that the machine has, but no shared-memory segments: they outlive a process
    # that is killed. Processes of one machine read each other's memory directly (CMA) instead,
    # which is as fast.
    "UCX_TLS": "^sysv,posix",
    # UCX's keep-alive aborts the whole prefill process when it finds a dead decode worker while
    # that worker's reads are still queued. Our own deadlines find dead peers.
    "UCX_KEEPALIVE_INTERVAL": "inf",
    "UCX_LOG_LEVEL": "fatal",
    "UCX_WARN_UNUSED_ENV_VARS": "n",
    "NIXL_LOG_LEVEL": "FATAL",
}

State = Literal["PROC", "DONE", "ERR"]


def is_installed() -> bool:
    """Whether one of NIXL's packages can be imported here."""
    return any(importlib.util.find_spec(package) is not None for package in PACKAGES)


def load(environment: MutableMapping[str, str]) -> Any:
    """Import NIXL; returns its API module.

    `environment` is that of the process: UCX is a C library and reads nothing else.

    Raises:
        ConfigError: it is not installed or cannot be loaded.
    """
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    problems = []
    for package in PACKAGES:
        raise_exceptions = logging.raiseExceptions
        try:
            module = importlib.import_module(f"{package}._api")
        except ImportError as error:
            problems.append(str(error))
            continue
        finally:
            # Importing NIXL sends its log to standard output and changes logging for everybody.
            logging.raiseExceptions = raise_exceptions
            logging.getLogger("nixl").handlers.clear()
        return module
    raise ConfigError(
        "--kv-transport nixl needs NIXL (pip install 'steelyard[nixl]'), which cannot be"
        f" imported: {'; '.join(problems)}"
    )


logger = logging.getLogger(__name__)


class Agent:
    """One NIXL agent with the KV pool registered, and nothing else; used by one thread."""

    def __init__(self, api: Any, name: str, memory: BlockMemory) -> None:
        self._block_bytes = memory.block_bytes
        self._base = memory.base_address()
        config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._agent = api.nixl_agent(name, config)
        self._registered = self._agent.register_memory(
            [(self._base, memory.num_blocks * memory.block_bytes, 0, "")], "DRAM"
        )
        self._peers: dict[bytes, str] = {}

    def metadata(self) -> bytes:
        """What a peer needs to read from here."""
        data = self._agent.get_agent_metadata()
        assert isinstance(data, bytes)
        return data

    def read(
        self, metadata: bytes, base: int, theirs: Sequence[int], ours: Sequence[int]
    ) -> tuple[Any, State]:
        """Start reading blocks; returns a handle and the state. May copy before it returns.

        An exception means that nothing was started.

        `metadata` must come from an authenticated peer: UCX aborts on bytes it does not expect.
        """
        peer = self._peers.get(metadata)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                self.forget(next(iter(self._peers)))
            found = self._agent.add_remote_agent(metadata)
            peer = found.decode() if isinstance(found, bytes) else str(found)
            self._peers[metadata] = peer
        size = self._block_bytes
        local = [(self._base + block * size, size, 0) for block in ours]
        remote = [(base + block * size, size, 0) for block in theirs]
        handle = self._agent.initialize_xfer(
            "READ",
            self._agent.get_xfer_descs(local, "DRAM"),
            self._agent.get_xfer_descs(remote, "DRAM"),
            peer,
        )
        try:
            return handle, self._agent.transfer(handle)
        except Exception as error:  # a part of it may be under way
            logger.debug("a NIXL read failed at its start: %s", error)
            return handle, "ERR"

    def state(self, handle: Any) -> State:
        """Drive the agent and return how far a read is."""
        state: State = self._agent.check_xfer_state(handle)
        return state

    def release(self, handle: Any) -> None:
        """Forget a read; one that is still under way ends with the agent."""
        try:
            self._agent.release_xfer_handle(handle)
        except Exception as error:
            logger.debug("NIXL keeps a read: %s", error)

    def forget(self, metadata: bytes) -> None:
        """Drop the connection to a peer; the next read makes a new one."""
        peer = self._peers.pop(metadata, None)
        try:
            if peer is not None:
                self._agent.remove_remote_agent(peer)
        except Exception as error:
            logger.debug("NIXL keeps a peer: %s", error)

    def progress(self) -> None:
        """Drive the agent, so that peers can connect to it and read."""
        self._agent.get_new_notifs()

    def destroy(self) -> None:
        """End the agent: its connections close and nothing lands any more."""
        self._peers.clear()
        try:
            self._agent.deregister_memory(self._registered)
        finally:
            # The destructor is the only way to end an agent.
            del self._registered, self._agent
