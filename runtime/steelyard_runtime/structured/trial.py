"""One trial of a grammar, in a process of its own: compile it, follow it for some tokens.

What a grammar costs cannot be told from its text, and no compile can be cancelled. So it is done
here first, where the kernel ends it: processor time by a timer, memory by a limit, a stack that
overflows or a failed allocation with the process. The outcome is what was measured.
"""

import random
import resource
import signal
import time
from pathlib import Path
from typing import Literal

import llguidance
import msgspec

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.matchers import (
    grammar_source,
    make_matcher,
    next_mask,
    take_token,
)

_ALLOWED = b"\xc8"  # llguidance's mark of an allowed token

TrialEnd = Literal["passed", "refused", "cpu", "memory", "crashed", "cancelled", "failed"]


class TrialOrder(msgspec.Struct, frozen=True, tag="try", tag_field="type"):
    """Try a grammar within `cpu_seconds`."""

    trial_id: int
    grammar: Grammar
    cpu_seconds: float


class TrialCancel(msgspec.Struct, frozen=True, tag="cancel", tag_field="type"):
    """End a trial; no outcome follows."""

    trial_id: int


class TrialOutcome(msgspec.Struct, frozen=True):
    """How a trial ended.

    `passed` has everything but `error`; `refused` a sentence for the client; the others ended the
    trial's process (`cpu`, `memory`, `crashed`) or come from around it (`failed`).
    """

    trial_id: int
    end: TrialEnd
    error: str = ""
    source: str = ""  # llguidance's form of the grammar
    compile_cpu_seconds: float = 0.0
    step_cpu_seconds: float = 0.0  # the slowest of: take a token in, compute the next mask
    grown_bytes: int = 0  # memory that compiling and following it took


def run_trial(tokenizer: llguidance.LLTokenizer, order: TrialOrder) -> TrialOutcome:
    """Bound this process, then try the grammar in it."""
    _bound_process(order.cpu_seconds)
    field = order.grammar.field
    before_bytes = _own_bytes()
    try:
        started = time.process_time()
        source = grammar_source(order.grammar)
        matcher = make_matcher(tokenizer, source, field)
        compiled = time.process_time()
        slowest = _follow(matcher, field)
    except RequestError as error:
        return TrialOutcome(order.trial_id, "refused", error.message)
    except MemoryError:
        return TrialOutcome(order.trial_id, "memory")
    if slowest > bounds.MASK_CPU_SECONDS:
        return TrialOutcome(order.trial_id, "refused", slow_step(field, slowest))
    return TrialOutcome(
        order.trial_id,
        "passed",
        source=source,
        compile_cpu_seconds=compiled - started,
        step_cpu_seconds=slowest,
        grown_bytes=max(0, _own_bytes() - before_bytes),
    )


def slow_step(field: str, seconds: float) -> str:
    """Return the sentence about a grammar whose masks take too long."""
    return (
        f"`{field}` holds a grammar that takes {seconds:.2g} s of processor time for one token; "
        f"at most {bounds.MASK_CPU_SECONDS:g} s are allowed"
    )


def _follow(matcher: llguidance.LLMatcher, field: str) -> float:
    """Go through random output; return the processor time of the slowest step."""
    draw = random.Random(0)  # noqa: S311 - the walk is to be the same every time
    started = time.process_time()
    mask = next_mask(matcher, field)
    slowest = time.process_time() - started
    for _ in range(bounds.TRIAL_TOKENS):
        token = _allowed_from(mask, draw.randrange(len(mask)))
        if token < 0 or matcher.is_stopped():
            break
        started = time.process_time()
        take_token(matcher, token, field)
        mask = next_mask(matcher, field)
        slowest = max(slowest, time.process_time() - started)
    return slowest


def _allowed_from(mask: bytes, index: int) -> int:
    """Return the first allowed token from `index` on, around the end; -1 where there is none."""
    found = mask.find(_ALLOWED, index)
    return found if found >= 0 else mask.find(_ALLOWED)


def _bound_process(cpu_seconds: float) -> None:
    """Let the kernel end this process: SIGPROF at the end of its processor time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    whole = int(cpu_seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = _mapped_bytes() + bounds.TRIAL_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _own_bytes() -> int:
    """Return this process's memory without what it maps from files."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:")) * 1024


def _mapped_bytes() -> int:
    with Path("/proc/self/statm").open() as pages:
        return int(pages.read().split()[0]) * resource.getpagesize()
