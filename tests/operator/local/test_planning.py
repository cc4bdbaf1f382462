"""What is done about processes, decided without any: `plan` is a function of what was seen."""

import pytest

from steelyard_operator.backends.base import Container, Probe, Sleep
from steelyard_operator.local.planning import (
    Action,
    GiveUp,
    Kill,
    Seen,
    Start,
    Wanted,
    back_off_seconds,
    plan,
)

PROBE = Probe("/health", 1, period_seconds=10, failure_threshold=6)
STARTUP = Probe("/ready", 1, period_seconds=5, failure_threshold=100)
A = Wanted("a", Container(("a",), {}, STARTUP, PROBE, PROBE, pre_stop=Sleep(0)))
NOW = 1000.0

CASES: dict[str, tuple[Seen | None, bool, list[Action]]] = {
    "never started": (None, False, [Start("a")]),
    "starting": (Seen(started_at=990), False, []),
    "answers": (Seen(started_at=0, answered_at=999), True, []),
    "just failed": (Seen(0, ended_at=NOW - 0.1, exit_code=1, failures=1), False, []),
    "failed a while ago": (Seen(0, ended_at=NOW - 1, exit_code=1, failures=1), False, [Start("a")]),
    "wrong input": (Seen(0, ended_at=NOW, exit_code=2, failures=1), False, [GiveUp("a", 2)]),
    "failed three times": (
        Seen(0, ended_at=NOW, exit_code=-9, failures=3),
        False,
        [GiveUp("a", -9)],
    ),
    "failed often, once ready": (
        Seen(0, ended_at=NOW - 31, exit_code=3, failures=9),
        True,
        [Start("a")],
    ),
    "wrong input, once ready": (
        Seen(0, ended_at=NOW - 31, exit_code=2, failures=1),
        True,
        [Start("a")],
    ),
    "slow start": (Seen(started_at=NOW - 400), False, []),
    "endless start": (Seen(started_at=NOW - 501), False, [Kill("a", "no answer for 500 s")]),
    "late answer": (Seen(0, answered_at=NOW - 59), True, []),
    "stuck": (Seen(0, answered_at=NOW - 61), True, [Kill("a", "no answer for 60 s")]),
}


@pytest.mark.parametrize(("seen", "was_ready", "actions"), CASES.values(), ids=CASES)
def test_one_process(seen: Seen | None, was_ready: bool, actions: list[Action]) -> None:
    """A state leads to one decision, whatever happened before it."""
    known = {} if seen is None else {"a": seen}

    assert plan([A], known, was_ready=was_ready, now=NOW) == actions


def test_one_hopeless_process_ends_the_start() -> None:
    """Nothing more is started once one process cannot start."""
    failed = {"a": Seen(0, ended_at=NOW, exit_code=2, failures=1)}
    other = Wanted("b", A.container)

    assert plan([other, A], failed, was_ready=False, now=NOW) == [GiveUp("a", 2)]


def test_back_off_doubles_up_to_its_limit() -> None:
    """The delay doubles with each failure in a row and never exceeds half a minute."""
    delays = [back_off_seconds(failures) for failures in range(10)]

    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
