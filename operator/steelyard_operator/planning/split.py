"""The split of workers that somebody wants: the seam between what is chosen and how it is reached.

`planning.balance` chooses it from measurements; `desiring` fits it into what the resource allows,
and `transaction` brings it about.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WantedSplit:
    """How many workers of each role a service should have."""

    prefill: int
    decode: int
    reason: str = "Rebalancing"
    """One CamelCase word."""
    message: str = ""
    """A sentence for people: what it was chosen for."""
