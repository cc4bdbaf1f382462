"""What the engine's step thread sees of KV transfer.

The step thread calls; the transfer threads do all I/O and answer with events, which the step
thread takes between two steps. Block ids are owned by the step thread's block manager: a landing
block is freed only after `PullSettled`, a leased one only after `LeaseEnded`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from steelyard_runtime.ipc.messages import RemotePrefill


@dataclass(frozen=True, slots=True)
class PullDone:
    """All blocks arrived and their checksums match. The pull is settled as well."""

    request_id: str
    num_blocks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PullFailed:
    """Recompute the prompt. The landing blocks may still be written until `PullSettled`.

    `reason` is one of: connect, handshake, fingerprint, unknown_lease, token_count, transfer,
    checksum, deadline, peer_not_allowed, cancelled.
    """

    request_id: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PullSettled:
    """Nothing can land in the blocks of this failed pull any more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The exported blocks of this request are free: the reader is done, or the lease ran out."""

    request_id: str
    reason: str  # done | expired | aborted


TransferEvent = PullDone | PullFailed | PullSettled | LeaseEnded


class BlockMemory(Protocol):
    """The KV pool as bytes; `block_bytes` each, one descriptor a block."""

    block_bytes: int
    num_blocks: int

    def view(self, block_id: int) -> memoryview:
        """Return the block's bytes, writable and without a copy (a CPU pool)."""
        ...

    def base_address(self) -> int:
        """Return the address of block 0; block i starts at base + i * block_bytes."""
        ...


class Transfer(Protocol):
    """Exporter and importer of one worker; every worker has both."""

    port: int

    def start(self) -> None:
        """Bind the side channel and start the threads.

        Raises:
            ConfigError: the port is in use, or the transport cannot be loaded.
        """
        ...

    def export(self, request_id: str, block_ids: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Put blocks under a lease; return the `kv_transfer_params` of the answer."""
        ...

    def hold(self, remote: RemotePrefill) -> None:
        """Keep the remote lease alive with heartbeats until `pull` or `release`.

        For a request that waits for admission; every `hold` must be followed by one of the two.
        """
        ...

    def pull(
        self,
        request_id: str,
        remote: RemotePrefill,
        first_block: int,
        block_ids: Sequence[int],
        num_tokens: int,
    ) -> None:
        """Read the remote blocks from `first_block` on into `block_ids`; events follow.

        `num_tokens` is the prompt length that this worker counted. With no `block_ids` (a full
        local hit) the prefill worker is only told that its blocks are free; `PullDone` follows.
        A call that raises has begun nothing.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Give up a pull; `PullFailed(reason="cancelled")` and `PullSettled` follow."""
        ...

    def release(self, remote: RemotePrefill) -> None:
        """Tell the prefill worker that a lease is not needed (the request never pulled)."""
        ...

    def end_leases(self) -> None:
        """End what is exported, whoever wants it; a `LeaseEnded` follows for each."""
        ...

    def events(self) -> list[TransferEvent]:
        """Take the events that came since the last call; never blocks."""
        ...

    def stats(self) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
        """Gauges, counters and observations, in the form of `EngineStats`."""
        ...

    def close(self) -> None:
        """Stop the threads; leases end."""
        ...
