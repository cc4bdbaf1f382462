"""What to do about the processes of one service: pure, `plan(wanted, seen, now)`.

Level-triggered: progress is derived from what is observed, so every call starts from the facts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard_operator.backends.base import Container

WRONG_INPUT_EXIT_CODE = 2
"""The exit code of a process whose flags or files are wrong (docs/contract.md)."""

START_ATTEMPTS = 3
"""How often a process may fail before the service was ever ready; then the user is told."""

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A process that should run."""

    name: str
    container: Container


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as observed: times are on the caller's monotonic clock."""

    started_at: float
    ended_at: float | None = None
    exit_code: int | None = None
    failures: int = 0  # exits in a row
    answered_at: float | None = None  # the last answer to a probe


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process, for the first time or again."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a process that no longer answers; the next pass starts it again."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The service cannot start."""

    name: str
    exit_code: int


Action = Start | Kill | GiveUp


def plan(
    wanted: Sequence[Wanted], seen: Mapping[str, Seen], *, was_ready: bool, now: float
) -> list[Action]:
    """Return the actions that bring what is seen nearer to what is wanted.

    Args:
        wanted: all processes of the service.
        seen: the processes that were ever started, by name.
        was_ready: whether the service was ready once; from then on nothing gives up.
        now: the time on the clock of `seen`.
    """
    actions: list[Action] = []
    for process in wanted:
        state = seen.get(process.name)
        if state is None:
            actions.append(Start(process.name))
        elif state.exit_code is not None and state.ended_at is not None:
            hopeless = state.exit_code == WRONG_INPUT_EXIT_CODE or state.failures >= START_ATTEMPTS
            if hopeless and not was_ready:
                return [GiveUp(process.name, state.exit_code)]
            if now >= state.ended_at + back_off_seconds(state.failures):
                actions.append(Start(process.name))
        elif (reason := _stuck(process.container, state, now)) is not None:
            actions.append(Kill(process.name, reason))
    return actions


def back_off_seconds(failures: int) -> float:
    """Return the delay before the start after so many failures in a row."""
    if failures == 0:
        return 0.0
    return float(min(FIRST_BACK_OFF_SECONDS * 2 ** (failures - 1), LONGEST_BACK_OFF_SECONDS))


def _stuck(container: Container, state: Seen, now: float) -> str | None:
    """The kubelet's rule: the start-up probe until the first answer, then liveness."""
    if state.answered_at is None:
        probe, since = container.startup, state.started_at
    else:
        probe, since = container.liveness, state.answered_at
    if now - since <= probe.patience_seconds:
        return None
    return f"no answer for {probe.patience_seconds} s"
