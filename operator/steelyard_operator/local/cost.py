"""What an answer costs: the price of all workers, idle ones included, over the tokens they made."""

from dataclasses import dataclass
from decimal import Decimal

SECONDS_PER_HOUR = 3600
TOKENS_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What the workers of a service cost together."""

    hourly: Decimal  # of all workers, in `currency`
    currency: str

    def per_million_tokens(self, *, wall_seconds: float, tokens: int) -> Decimal | None:
        """Return the cost of a million tokens, prompt and output, at that rate.

        None where no token was made.
        """
        if tokens == 0:
            return None
        spent = self.hourly * Decimal(wall_seconds) / SECONDS_PER_HOUR
        return spent * TOKENS_PER_MILLION / tokens
