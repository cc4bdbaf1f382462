"""Each promise under attack can be seen to break, and is told in a sentence."""

from dataclasses import replace

import pytest

from steelyard_runtime.testing.hostile.attacker import Attempted
from steelyard_runtime.testing.hostile.good_clients import Answer, Gap, Probe
from steelyard_runtime.testing.hostile.memory import Sample
from steelyard_runtime.testing.hostile.stalls import Stall
from steelyard_runtime.testing.hostile.verdict import Evidence, breaches, figures, sentence

MIB = 1024 * 1024


def answer(stream: int = 0, said: str = "right", gap: float = 0.1, error: str = "") -> Answer:
    """Return an answer that began 10 s after the attacks did."""
    return Answer(stream, 110.0, 110.5, Gap(stream, 112.0, 112.0 + gap), said, error)


KEPT = Evidence(
    began=100.0,
    ended=160.0,
    answers=[answer(0), answer(1)],
    right=["right", "right"],
    probes=[Probe("the router", 110.0, 0.1, "")],
    stalls=[],
    attempts={"poison": [Attempted(111.5, 1.0, "400")]},
    samples=[Sample(100.0 + at, {"router": 50 * MIB}) for at in range(60)],
    changes=[],
    good_peaks={"router": 50 * MIB},
    peaks={"router": 60 * MIB},
)


def test_a_run_that_kept_every_promise_passes() -> None:
    """Nothing broken is no breach, and the figures can be made of it."""
    assert breaches(KEPT) == []
    assert sentence([]) == "every promise was kept"
    assert figures(KEPT)["attacks"]["poison"]["outcomes"] == {"400": 1}


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (
            replace(KEPT, changes=[(112.0, "decode engine: process [5] is now None")]),
            "no worker dies: at 12.0 s decode engine: process [5] is now None "
            "(attempts then: poison at 11.5 s (400, 1.0 s))",
        ),
        (
            replace(KEPT, answers=[answer(0, error="502: b''"), answer(1)]),
            "no good request fails: at 12.0 s stream 0 failed with 502: b'' "
            "(attempts then: poison at 11.5 s (400, 1.0 s))",
        ),
        (
            replace(KEPT, answers=[answer(0)]),
            "no good request fails: at 60.0 s stream 1 has no answer at all",
        ),
        (
            replace(KEPT, answers=[answer(0, said="rigor"), answer(1)]),
            "no good text changes: at 10.0 s stream 0 said 'or' instead of 'ht' after 3 characters",
        ),
        (
            replace(KEPT, answers=[answer(0, gap=2.5), answer(1)]),
            "no good stream is silent for 2 s: at 12.0 s stream 0 was silent for 2.5 s "
            "(attempts then: poison at 11.5 s (400, 1.0 s))",
        ),
        (
            replace(KEPT, answers=[answer(0, gap=2.5), answer(1)], stalls=[Stall(112.1, 0.2)]),
            "no good stream is silent for 2 s: at 12.0 s stream 0 was silent for 2.5 s, 0.2 s of "
            "them the machine's own stall (attempts then: poison at 11.5 s (400, 1.0 s))",
        ),
        (
            replace(KEPT, probes=[Probe("the router", 110.0, 2.5, "")], attempts={}),
            "probes pass: at 10.0 s the router answered a probe after 2.5 s",
        ),
        (
            replace(KEPT, probes=[Probe("the router", 110.0, 0.1, "503")], attempts={}),
            "probes pass: at 10.0 s a probe of the router failed after 0.1 s: 503",
        ),
        (
            replace(KEPT, attempts={"poison": [Attempted(111.5, 1.0, "500")]}),
            "no attack makes a server error: at 11.5 s poison was answered 500",
        ),
        (
            replace(KEPT, peaks={"router": 66 * MIB}),
            "memory is bounded: at 0.0 s router had 66 MiB, and 50 under good traffic",
        ),
        (
            replace(
                KEPT,
                samples=[Sample(100.0 + at, {"router": (50 + 2 * at) * MIB}) for at in range(60)],
            ),
            "memory is flat: at 60.0 s router still grew: 124 MiB, then 154",
        ),
        (
            replace(KEPT, attempts={"poison": []}),
            "every attack was made: at 60.0 s poison made no attempt",
        ),
    ],
)
def test_a_broken_promise_is_told(seen: Evidence, told: str) -> None:
    """The sentence says which promise, when, and what was tried then."""
    assert [str(each) for each in breaches(seen)] == [told]


def test_a_gap_that_the_machine_made_is_excused() -> None:
    """Only as far as the control process stood still at the same time."""
    answers = [answer(0, gap=2.5), answer(1)]

    assert breaches(replace(KEPT, answers=answers, stalls=[Stall(112.0, 0.6)])) == []
    assert breaches(replace(KEPT, answers=answers, stalls=[Stall(130.0, 0.6)])) != []


def test_a_server_that_says_it_is_busy_is_no_error() -> None:
    """503 is how a bound is told."""
    busy = replace(KEPT, attempts={"slow-grammar": [Attempted(111.5, 1.0, "503")]})

    assert breaches(busy) == []
