"""The role of a worker: a policy of scheduling and routing, not a different program."""

from enum import StrEnum


class Role(StrEnum):
    """Wire values, in lower case; the API writes them in CamelCase."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class Phase(StrEnum):
    """Where a worker is in its life."""

    LOADING = "loading"
    WARMUP = "warmup"
    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"
