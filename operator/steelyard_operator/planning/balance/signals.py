"""What is measured between two ticks, and the bounds that a choice stays inside."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """Sums over the time since the last tick, as the router sees them, and facts of now."""

    seconds: float  # since the last tick
    requests: int  # arrived
    input_tokens: int  # of arrived requests, without those in a prefix cache
    input_tokens_squared: float  # the sum of squares: how unequal prompts are
    finished: int
    finished_output_tokens: int
    context_tokens: int  # of finished requests: prompt and output
    backlog_tokens: int  # prompt tokens that wait for prefill now
    decoding: int  # sequences in decode, or waiting for it, now
    prefill: int  # workers of the role: serving, starting or changing to it
    decode: int


@dataclass(frozen=True, slots=True)
class Objectives:
    """The latencies that `percentile` of all requests should meet."""

    ttft_seconds: float
    tpot_seconds: float
    percentile: float = 0.95


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on workers; None fixes nothing."""

    max_workers: int
    min_prefill: int = 1
    min_decode: int = 1
    max_prefill: int | None = None
    max_decode: int | None = None
    fixed_prefill: int | None = None  # the resource says so: nobody else decides
    fixed_decode: int | None = None
    flips: bool = True
    min_prefill_percent: int | None = None  # of decode workers
    max_prefill_percent: int | None = None
    dollars_per_worker_hour: float = 0.0
    ceiling_per_million_tokens: float | None = None  # dollars


@dataclass(frozen=True, slots=True)
class Split:
    """Workers by role."""

    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """All workers."""
        return self.prefill + self.decode
