"""`GET /router/signals`: what a planner of capacity needs to know of one router, as compact JSON.

Sums only grow for as long as the process lives, so that whoever reads them may read as rarely as it
likes; a new `id` means that they began anew.
"""

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from steelyard_runtime.router.call import Call

LATENCY_BUCKETS = 40
"""Bucket i counts latencies of at most 2**(i / 2) ms; the last one all that are longer, too."""


MOST_SUM = 2**63 - 1
"""What JSON's readers take; only the sum of squares comes near it."""


class Latencies:
    """How often a latency fell into which bucket."""

    def __init__(self) -> None:
        self.counts = [0] * LATENCY_BUCKETS

    def observe(self, seconds: float) -> None:
        """Count one."""
        milliseconds = max(seconds * 1000, 1.0)
        place = math.ceil(2 * math.log2(milliseconds) - 1e-9)
        self.counts[min(place, LATENCY_BUCKETS - 1)] += 1


class Signals:
    """Sums over all completions of this process, and those that are open now."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._open: set[Call] = set()
        self._arrived = 0
        self._input_tokens = 0
        self._input_tokens_squared = 0
        self._finished = 0
        self._output_tokens = 0
        self._context_tokens = 0
        self._prefilled_tokens = 0
        self._cached_tokens = 0
        self._ttft = Latencies()
        self._tpot = Latencies()

    @contextmanager
    def counted(self, call: Call, clock: Callable[[], float]) -> Iterator[None]:
        """Count a call from its arrival to its end; one without an answer never finishes."""
        tokens = call.prompt.tokens
        self._arrived += 1
        self._input_tokens += tokens
        squared = self._input_tokens_squared + tokens * tokens
        self._input_tokens_squared = min(squared, MOST_SUM)
        self._open.add(call)
        try:
            yield
        finally:
            self._open.discard(call)
            self._prefilled_tokens += call.prefilled_tokens
            self._cached_tokens += call.cached_tokens
            if call.output_tokens:
                self._finished += 1
                self._output_tokens += call.output_tokens
                self._context_tokens += (call.input_tokens or tokens) + call.output_tokens
                self._observe_latencies(call, clock())

    def _observe_latencies(self, call: Call, now_seconds: float) -> None:
        first = call.first_token_seconds
        if first is None:
            return  # it did not stream: nobody knows when its first token was there
        self._ttft.observe(first - call.arrived_seconds)
        if call.output_tokens > 1:
            self._tpot.observe((now_seconds - first) / (call.output_tokens - 1))

    def document(self) -> dict[str, Any]:
        """Return the body: tokens of open and arrived prompts are estimates."""
        # Only a stream tells when its prompt has been read.
        unread = [
            call for call in self._open if call.client is not None and not call.first_token_seconds
        ]
        return {
            "id": self._id,
            "arrived": self._arrived,
            "inputTokens": self._input_tokens,
            "inputTokensSquared": self._input_tokens_squared,
            "finished": self._finished,
            "outputTokens": self._output_tokens,
            "contextTokens": self._context_tokens,
            "prefilledTokens": self._prefilled_tokens,
            "cachedTokens": self._cached_tokens,
            "backlogTokens": sum(call.prompt.tokens for call in unread),
            "backlog": len(unread),
            "decoding": len(self._open) - len(unread),
            "ttft": list(self._ttft.counts),
            "tpot": list(self._tpot.counts),
        }
