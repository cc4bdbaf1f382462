"""What the page is told: figures from readings, and events from what changed between two looks."""

from dataclasses import replace
from typing import Any

from steelyard_operator.page.chronicle import EVENTS_KEPT, Chronicle, Look, WorkerFact
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.testing import a_service

SERVICE = a_service(
    objectives={"ttftMilliseconds": 300, "tpotMilliseconds": 50, "percentile": 90},
    cost={"acceleratorHourly": "2", "ceilingPerMillionTokens": "9"},
)
PREFILL, DECODE = WorkerFact("s-0", "prefill", "ready"), WorkerFact("s-1", "decode", "ready")


def reading(requests: int, *, ttft_bucket: int = 10) -> RouterReading:
    """Requests of 900 tokens in and 100 out, all with the same TTFT; bucket 10 ends at 32 ms."""
    counts = [0] * 40
    counts[ttft_bucket] = requests
    sums = (requests, 900 * requests, 0, requests, 100 * requests, 1000 * requests)
    return RouterReading("r", tuple(map(float, sums)), 3, 2700, 5, tuple(counts), tuple(counts))


def look(seconds: float, *workers: WorkerFact, requests: int = 0, **more: Any) -> Look:
    return Look(seconds, f"at {seconds:g}", workers, [reading(requests)], **more)


def test_figures_are_those_of_the_time_since_it_was_opened() -> None:
    """What was before counts for nothing: the first look is only a beginning."""
    chronicle = Chronicle()
    chronicle.take(SERVICE, look(0, PREFILL, DECODE, requests=1000))

    facts = chronicle.take(
        SERVICE, look(10, PREFILL, DECODE, requests=1020, in_flight={"s-0": 3, "s-1": 5})
    )

    assert facts["objectives"]["ttftMilliseconds"] == 300
    assert 22 < facts["latencies"]["ttftMilliseconds"] <= 32
    # Two workers at $2 an hour for 10 s, over 20 x 1,000 tokens.
    assert facts["cost"] == {"perMillionTokens": 0.5556, "currency": "USD", "ceiling": 9.0}
    assert facts["load"] == {
        "waiting": 3,
        "decoding": 5,
        "requestsPerSecond": 2.0,
        "outputTokensPerSecond": 200.0,
    }
    assert [worker["inFlight"] for worker in facts["workers"]] == [3, 5]


def test_nothing_is_known_before_the_second_look() -> None:
    """And a service without a price has no cost."""
    facts = Chronicle().take(a_service(), look(0, PREFILL, DECODE, requests=7))

    assert facts["latencies"]["ttftMilliseconds"] is None
    assert facts["cost"] is None
    assert facts["events"] == []


def test_changes_are_events_the_newest_first() -> None:
    """Roles, phases, workers that come and go, and what the operator decided, once."""
    chronicle = Chronicle()
    notes = [("11:59", "a worker moves: prompts wait")]
    chronicle.take(SERVICE, look(0, PREFILL, DECODE))
    chronicle.take(SERVICE, look(1, PREFILL, WorkerFact("s-1", "none", "draining"), notes=notes))
    chronicle.take(SERVICE, look(2, PREFILL, WorkerFact("s-1", "prefill", "ready"), notes=notes))
    facts = chronicle.take(SERVICE, look(3, WorkerFact("s-0", "prefill", "loading"), DECODE))
    facts = chronicle.take(SERVICE, look(4, DECODE, WorkerFact("s-2", "decode", "ready")))

    assert facts["events"] == [
        {"time": "at 4", "text": "s-0 is gone"},
        {"time": "at 4", "text": "s-2 is there (decode)"},
        {"time": "at 3", "text": "s-1 changes from prefill to decode"},
        {"time": "at 3", "text": "s-0 is loading"},
        {"time": "at 2", "text": "s-1 changes from none to prefill"},
        {"time": "at 1", "text": "s-1 changes from decode to none"},
        {"time": "11:59", "text": "a worker moves: prompts wait"},
    ]


def test_old_events_and_old_rates_are_forgotten() -> None:
    """The list is bounded, and rates are of the last seconds."""
    chronicle = Chronicle()
    for second in range(200):
        role = ("prefill", "decode")[second % 2]
        facts = chronicle.take(
            SERVICE,
            look(float(second), WorkerFact("s-0", role, "ready"), requests=min(second, 100)),
        )

    assert len(facts["events"]) == EVENTS_KEPT
    assert facts["load"]["requestsPerSecond"] == 0.0


def test_a_silent_router_changes_no_figure() -> None:
    """What came while it was silent counts over all of that time."""
    chronicle = Chronicle()
    chronicle.take(SERVICE, look(0, PREFILL, DECODE, requests=0))
    chronicle.take(SERVICE, Look(5, "at 5", [PREFILL, DECODE]))
    facts = chronicle.take(SERVICE, look(10, PREFILL, DECODE, requests=20))

    assert facts["load"]["requestsPerSecond"] == 2.0


def test_one_silent_router_of_two_is_no_new_one() -> None:
    """Its whole past does not come again when it answers again."""
    chronicle = Chronicle()
    old, steady = replace(reading(1000), id="old"), reading(0)
    workers = [PREFILL, DECODE]
    chronicle.take(SERVICE, Look(0, "", workers, [old, steady]))
    chronicle.take(SERVICE, Look(5, "", workers, [steady]))
    facts = chronicle.take(SERVICE, Look(10, "", workers, [old, steady]))

    assert facts["load"]["requestsPerSecond"] == 0.0
