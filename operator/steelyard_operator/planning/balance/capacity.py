"""What a worker can do, and how many a demand needs.

Prefill is a queue: prompts wait for one of N workers. How long is Erlang's C formula with
exponential tails (Gross and Harris, "Fundamentals of Queueing Theory", M/M/c); unequal prompts
count as longer ones. Decode is a share: a step takes a + b * sequences + c * tokens in the cache,
so the objective says how many sequences a worker may have.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice

from steelyard_operator.planning.balance.signals import Objectives

MOST_WORKERS = 10_000
CHANCE = 2.0  # standard deviations


@dataclass(frozen=True, slots=True)
class Capacity:
    """One worker of each role."""

    prefill_tokens_per_second: float
    prefill_overhead_seconds: float  # of a step, whatever is in it
    step_seconds: float  # a
    step_seconds_per_sequence: float  # b
    step_seconds_per_token: float  # c
    kv_tokens: int  # what its cache holds
    max_sequences: int
    prefill_step_tokens: int = 0
    """A step holds so many tokens: some short prompts, or a part of one; 0: always one prompt."""

    def prefill(self, tokens: float, prompts: float = 1.0) -> float:
        """Return the seconds of some prompts' tokens where steps are as full as they can be."""
        most = self.prefill_step_tokens
        steps = tokens / most if most else prompts
        return tokens / self.prefill_tokens_per_second + steps * self.prefill_overhead_seconds

    def prefill_alone(self, tokens: float) -> float:
        """Return the seconds of one prompt, or of a step of several, by itself."""
        most = self.prefill_step_tokens
        steps = math.ceil(tokens / most) if most else 1
        return tokens / self.prefill_tokens_per_second + steps * self.prefill_overhead_seconds

    def step(self, sequences: float, tokens: float) -> float:
        """Return the seconds of a decode step."""
        return (
            self.step_seconds
            + self.step_seconds_per_sequence * sequences
            + self.step_seconds_per_token * tokens
        )

    def sequences_within(self, tpot_seconds: float, context_tokens: float) -> int:
        """Return how many sequences of this context a worker may decode; at least 1."""
        if tpot_seconds <= self.step_seconds:
            return 1  # No number keeps it; the fewest come nearest.
        each = self.step_seconds_per_sequence + self.step_seconds_per_token * context_tokens
        by_time = (tpot_seconds - self.step_seconds) / each if each > 0 else math.inf
        by_memory = self.kv_tokens / max(context_tokens, 1.0)
        return max(1, int(min(by_time, by_memory, self.max_sequences)))


@dataclass(frozen=True, slots=True)
class Demand:
    """What arrives in a second, and its shape."""

    requests: float
    input_tokens: float
    spread: float  # mean square of prompt lengths over the square of their mean; 1: all equal
    output_tokens: float
    context_tokens: float  # of a sequence in the middle of its decode


def prefill_workers(demand: Demand, capacity: Capacity, objectives: Objectives) -> int:
    """Return the fewest prefill workers whose queue keeps the TTFT objective."""
    if demand.requests <= 0:
        return 0
    own, service = _prefill_seconds(demand, capacity)
    load = capacity.prefill(demand.input_tokens, demand.requests)
    allowed = objectives.ttft_seconds - 2 * own  # The request itself, and the first decode step.
    late = 1 - objectives.percentile
    services = max(allowed, 0.0) / service
    if load >= MOST_WORKERS:
        return MOST_WORKERS
    for count, busy in enumerate(islice(_erlang_c_of_each(load), MOST_WORKERS - 1), 1):
        if count > load and busy * math.exp(-(count - load) * services) <= late:
            return count
    return MOST_WORKERS


def decode_workers(demand: Demand, capacity: Capacity, objectives: Objectives) -> int:
    """Return the fewest decode workers that keep the TPOT objective."""
    if demand.output_tokens <= 0:
        return 0
    most = capacity.sequences_within(objectives.tpot_seconds, demand.context_tokens)
    step = capacity.step(most, most * demand.context_tokens)
    sequences = demand.output_tokens * step
    # How many there are at once varies as a Poisson number does, and so does their share of each.
    return math.ceil((sequences + CHANCE * math.sqrt(sequences)) / most)


def ttft_seconds(count: int, demand: Demand, capacity: Capacity, percentile: float) -> float:
    """Return the time to the first token that a share of requests will keep; inf: none will."""
    if demand.requests <= 0:
        return 0.0
    own, service = _prefill_seconds(demand, capacity)
    load = capacity.prefill(demand.input_tokens, demand.requests)
    if count <= load:
        return math.inf
    waiting = _erlang_c(count, load) / (1 - percentile)
    wait = service * math.log(waiting) / (count - load) if waiting > 1 else 0.0
    return wait + 2 * own  # The request itself, and the first decode step.


def tpot_seconds(count: int, demand: Demand, capacity: Capacity) -> float:
    """Return the time per output token that so many workers will have; inf: they fall behind."""
    if count <= 0:
        return math.inf if demand.output_tokens > 0 else 0.0
    rate = demand.output_tokens / count
    each = (
        capacity.step_seconds_per_sequence + capacity.step_seconds_per_token * demand.context_tokens
    )
    # As many sequences as make the rate: n = rate * (a + each * n).
    room = 1 - rate * each
    sequences = rate * capacity.step_seconds / room if room > 0 else math.inf
    if sequences * demand.context_tokens > capacity.kv_tokens or sequences > capacity.max_sequences:
        return math.inf
    return capacity.step_seconds + each * max(sequences, 1.0)


def _prefill_seconds(demand: Demand, capacity: Capacity) -> tuple[float, float]:
    """Return the mean seconds of a prompt, and as a queue feels them."""
    own = capacity.prefill_alone(demand.input_tokens / demand.requests)
    # Half of the mean square is what a queue feels of service times that vary.
    return own, own * (1 + demand.spread) / 2


def _erlang_c(count: int, load: float) -> float:
    """Return the share of requests that wait where `load` of `count` workers are busy."""
    return next(islice(_erlang_c_of_each(load), count - 1, None))


def _erlang_c_of_each(load: float) -> Iterator[float]:
    """Yield the share of requests that wait for 1, 2, 3 ... workers; 1: they do not keep up."""
    blocking = 1.0  # Erlang B, by its recursion: each number of workers from the one before.
    for servers in count_from(1):
        blocking = load * blocking / (servers + load * blocking)
        yield blocking / (1 - load / servers * (1 - blocking)) if servers > load else 1.0
