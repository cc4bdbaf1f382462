"""What runs beside what, of the work on grammars."""

import threading
from collections.abc import Iterator

import pytest

from steelyard_runtime.structured.lanes import FAST_THREADS, Lanes, Strand

SECONDS = 60.0


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    """Threads that end with the test."""
    made = Lanes()
    yield made
    made.close()


def test_one_grammar_never_keeps_two_threads(lanes: Lanes) -> None:
    """Its jobs run in order, one at a time; another grammar's pass them."""
    busy, other = Strand(lanes), Strand(lanes)
    opened, passed, ended = threading.Event(), threading.Event(), threading.Event()
    ran: list[int] = []
    busy.submit(lambda: _wait(opened), is_slow=False)
    for index in range(2 * FAST_THREADS):
        busy.submit(lambda index=index: ran.append(index), is_slow=False)
    busy.submit(ended.set, is_slow=False)
    other.submit(passed.set, is_slow=False)

    assert passed.wait(SECONDS)
    assert not ran
    opened.set()
    assert ended.wait(SECONDS)
    assert ran == list(range(2 * FAST_THREADS))


def test_slow_jobs_leave_the_fast_lane_alone(lanes: Lanes) -> None:
    """However many slow ones wait, an ordinary one runs."""
    opened, passed = threading.Event(), threading.Event()
    for _ in range(2 * FAST_THREADS):
        lanes.submit(lambda: _wait(opened), is_slow=True)
    lanes.submit(passed.set, is_slow=False)

    assert passed.wait(SECONDS)
    opened.set()


def test_a_job_that_raises_ends_no_lane_and_no_strand(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes after it runs."""
    strand, passed = Strand(lanes), threading.Event()
    strand.submit(lambda: {}["missing"], is_slow=True)
    strand.submit(passed.set, is_slow=True)

    assert passed.wait(SECONDS)
    assert "work on a grammar failed" in caplog.text


def _wait(event: threading.Event) -> None:
    event.wait(SECONDS)
