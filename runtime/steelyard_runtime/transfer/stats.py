"""What KV transfer counts, under the names of `docs/contract.md` section 6 and vLLM's.

Counters exist from the start, with 0, so that a rate over the first failure is not lost.
"""

from collections import deque

PULL_REASONS = (
    "connect",
    "handshake",
    "fingerprint",
    "unknown_lease",
    "token_count",
    "transfer",
    "checksum",
    "deadline",
    "peer_not_allowed",
    "cancelled",
)
LEASE_ENDS = ("done", "expired", "aborted")
REJECTIONS = (
    "preface",
    "version",
    "size",
    "mac",
    "decode",
    "closed",
    "deadline",
    "connections",
    "protocol",
)
# Observations wait for the next `take`; a worker whose stats nobody reads forgets the oldest.
MAX_OBSERVATIONS = 4096


class TransferStats:
    """Counters are changed by the transfer thread alone and read by any."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {
            'steelyard:kv_pulls_total{result="done"}': 0,
            'steelyard:kv_pulls_total{result="failed"}': 0,
            "steelyard:kv_pull_bytes_total": 0,
            "vllm:nixl_num_failed_notifications_total": 0,
            "vllm:nixl_num_kv_expired_reqs_total": 0,
            "vllm:nixl_num_notifications_after_expiry_total": 0,
        }
        for reason in PULL_REASONS:
            self.counters[f'steelyard:kv_pull_failures_total{{reason="{reason}"}}'] = 0
        for end in LEASE_ENDS:
            self.counters[f'steelyard:leases_total{{end="{end}"}}'] = 0
        for reason in REJECTIONS:
            self.counters[f'steelyard:kv_connections_rejected_total{{reason="{reason}"}}'] = 0
        self._observed: deque[tuple[str, float]] = deque(maxlen=MAX_OBSERVATIONS)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def observe(self, name: str, value: float) -> None:
        """Note one value of a histogram."""
        self._observed.append((name, value))

    def pull_done(self, seconds: float, num_bytes: int) -> None:
        """A pull brought all its blocks."""
        self.count('steelyard:kv_pulls_total{result="done"}')
        self.count("steelyard:kv_pull_bytes_total", num_bytes)
        self.observe("steelyard:kv_pull_seconds", seconds)

    def pull_failed(self, reason: str) -> None:
        """A pull failed."""
        self.count('steelyard:kv_pulls_total{result="failed"}')
        self.count(f'steelyard:kv_pull_failures_total{{reason="{reason}"}}')

    def lease_ended(self, end: str) -> None:
        """A lease of ours ended."""
        self.count(f'steelyard:leases_total{{end="{end}"}}')
        if end == "expired":
            self.count("vllm:nixl_num_kv_expired_reqs_total")

    def rejected(self, reason: str) -> None:
        """A connection to our side channel was closed because of what it sent."""
        self.count(f'steelyard:kv_connections_rejected_total{{reason="{reason}"}}')

    def take_observations(self) -> dict[str, list[float]]:
        """Return what was observed since the last call."""
        taken: dict[str, list[float]] = {}
        while self._observed:
            name, value = self._observed.popleft()
            taken.setdefault(name, []).append(value)
        return taken
