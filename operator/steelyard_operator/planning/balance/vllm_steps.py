"""What the steps of a vLLM worker took, from two readings of its metrics.

vLLM tells no step times. What it tells of requests and tokens gives them: the time of prompts from
their scheduling to the first token, and the sum of all gaps between tokens. All sequences of a
batch wait for the same step, so a mean gap is a mean step; and as a running sequence is always in a
gap, the seconds of gaps in a second are how many run (Little, "A proof for the queuing formula
L = λW", 1961). Where prompts are computed together each one's time has that of the others in it:
the rate is then too low, and the planner makes a worker too many rather than one too few.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.fit import StepSums

PROMPTS = "vllm:request_prefill_time_seconds_count"
PROMPT_SECONDS = "vllm:request_prefill_time_seconds_sum"
# Without those that were in a prefix cache, or came from another worker.
COMPUTED_TOKENS = "vllm:request_prefill_kv_computed_tokens_sum"
GAPS = "vllm:inter_token_latency_seconds_count"
GAP_SECONDS = "vllm:inter_token_latency_seconds_sum"
# Of requests that have ended.
ENDED = "vllm:request_prompt_tokens_count"
PROMPT_TOKENS = "vllm:request_prompt_tokens_sum"
ANSWER_TOKENS = "vllm:request_generation_tokens_sum"
RUNNING = "vllm:num_requests_running"
CACHE_USE = "vllm:kv_cache_usage_perc"
CACHE = "vllm:cache_config_info"
NEEDED = (
    PROMPTS,
    PROMPT_SECONDS,
    COMPUTED_TOKENS,
    GAPS,
    GAP_SECONDS,
    ENDED,
    PROMPT_TOKENS,
    ANSWER_TOKENS,
    RUNNING,
    CACHE_USE,
)
# vLLM's `--max-num-seqs` is in no metric; this is its smallest default.
MAX_SEQUENCES = 128

LONGEST_LINE = 4096
MOST_BLOCK_DIGITS = 12

_LINE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
# Possessive and from a word's first letter: a page may be made to take long.
_LABEL = re.compile(r'(?<!\w)(\w++)="((?:[^"\\]|\\.)*+)"')


@dataclass(frozen=True, slots=True)
class Page:
    """One reading of `GET /metrics`."""

    at: float
    """In seconds, of any clock."""
    prompts: float
    prompt_seconds: float
    computed_tokens: float
    gaps: float
    gap_seconds: float
    ended: float
    """Requests."""
    prompt_tokens: float
    """Of those that have ended."""
    answer_tokens: float
    running: float
    kv_tokens: float
    """In the cache now."""
    kv_capacity: int
    """That the cache holds."""

    @classmethod
    def read(cls, text: str, at: float) -> "Page | None":
        """Return what a page says, or None where it lacks something.

        Raises:
            ValueError: a number is none, or out of bounds.
        """
        values: defaultdict[str, float] = defaultdict(float)
        tokens = 0
        for line in _LINE.finditer(text):
            name, labels, value = line.groups()
            if line.end() - line.start() > LONGEST_LINE:
                continue
            if name == CACHE:
                found = dict(_LABEL.findall(labels or ""))
                tokens += _digits(found.get("num_gpu_blocks")) * _digits(found.get("block_size"))
            elif name in NEEDED:
                values[name] = untrusted.amount(values[name] + untrusted.amount_of(value))
        if not tokens or len(values) != len(NEEDED):
            return None
        return cls(
            at=at,
            prompts=values[PROMPTS],
            prompt_seconds=values[PROMPT_SECONDS],
            computed_tokens=values[COMPUTED_TOKENS],
            gaps=values[GAPS],
            gap_seconds=values[GAP_SECONDS],
            ended=values[ENDED],
            prompt_tokens=values[PROMPT_TOKENS],
            answer_tokens=values[ANSWER_TOKENS],
            running=values[RUNNING],
            kv_tokens=values[CACHE_USE] * tokens,
            kv_capacity=tokens,
        )


def _digits(text: str | None) -> int:
    good = text is not None and text.isdecimal() and len(text) <= MOST_BLOCK_DIGITS
    return int(text) if text is not None and good else 0


def steps(before: Page, after: Page) -> StepSums | None:
    """Return the steps between two readings; None where the worker began anew between them."""
    if after.prompts < before.prompts or after.gaps < before.gaps or after.at <= before.at:
        return None
    return StepSums(
        _prefill(before, after), _decode(before, after), after.kv_capacity, MAX_SEQUENCES
    )


def _prefill(before: Page, after: Page) -> tuple[float, ...]:
    """Return sums of the prompts that ended: all as long as their mean, that is all one knows."""
    count = after.prompts - before.prompts
    tokens = after.computed_tokens - before.computed_tokens
    seconds = after.prompt_seconds - before.prompt_seconds
    # A prompt that came from another worker, or was in the cache but for its last token, took
    # a step of decode.
    if count <= 0 or tokens <= count:
        return StepSums().prefill
    return (count, seconds, tokens, tokens**2 / count, tokens * seconds / count)


def _context(before: Page, after: Page, sequences: float) -> float:
    """Return the tokens in the cache while `sequences` ran.

    The cache's use is that of two moments, in which a worker may just be idle; requests that have
    ended had half of their answers on the mean.
    """
    ended = after.ended - before.ended
    if ended <= 0:
        return (before.kv_tokens + after.kv_tokens) / 2
    prompt = (after.prompt_tokens - before.prompt_tokens) / ended
    answer = (after.answer_tokens - before.answer_tokens) / ended
    return sequences * (prompt + answer / 2)


def _decode(before: Page, after: Page) -> tuple[float, ...]:
    """Return sums of the steps that brought the gaps."""
    gaps, seconds = after.gaps - before.gaps, after.gap_seconds - before.gap_seconds
    if gaps <= 0:
        return StepSums().decode
    step = seconds / gaps
    # Where it was idle for a part of the time, more ran in the rest.
    seen = min(before.running, after.running)
    sequences = max(seconds / (after.at - before.at), seen, 1.0)
    count = gaps / sequences
    context = max(_context(before, after, sequences), sequences)
    return (
        count,
        count * step,
        count * sequences,
        count * context,
        count * sequences**2,
        count * context**2,
        count * sequences * context,
        count * sequences * step,
        count * context * step,
    )
