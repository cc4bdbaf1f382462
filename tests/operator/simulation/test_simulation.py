"""Simulated time: every request is answered, hours and tokens add up, delays are modelled."""

import json
from pathlib import Path

import pytest

from steelyard_operator.cli import main
from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.signals import Objectives, Signals, Split
from steelyard_operator.simulation.fleet import Fleet
from steelyard_operator.simulation.policies import (
    Policy,
    Sla,
    Static,
    Steelyard,
    Threshold,
    View,
    throughput_split,
)
from steelyard_operator.simulation.profiles import PROFILES, profile
from steelyard_operator.simulation.traces import Request, read_trace, scaled
from steelyard_operator.simulation.workers import Job, Role, Worker

LLAMA = profile("llama-3.1-8b-h100")


def even(
    count: int, every: float, input_tokens: int = 1000, output_tokens: int = 100
) -> list[Request]:
    return [Request(index * every, input_tokens, output_tokens) for index in range(count)]


def fleet(requests: list[Request], policy: Policy | None = None, **changes: object) -> Fleet:
    settings = {"start": Split(1, 1), "max_workers": 8, **changes}
    return Fleet(LLAMA, requests, policy or Static(), **settings)  # type: ignore[arg-type]


def test_a_lone_request_takes_what_its_parts_take() -> None:
    """Prefill, transfer and as many steps as tokens, by hand."""
    played = fleet(even(1, 1.0))
    outcome = played.run()

    capacity = LLAMA.capacity
    prefill = 1000 / capacity.prefill_tokens_per_second + capacity.prefill_overhead_seconds
    transfer = LLAMA.transfer_seconds + 1000 * LLAMA.transfer_seconds_per_token
    step = capacity.step(1, 1001)
    assert outcome.seconds == pytest.approx(prefill + transfer + 99 * step, rel=1e-3)
    assert (outcome.requests, outcome.good, outcome.tokens) == (1, 1, 1100)


def test_short_prompts_share_a_step() -> None:
    """What waits while the first is computed goes in one step, as far as that holds it."""
    worker = Worker(LLAMA, Role.PREFILL, created=0.0, ready_at=0.0)
    for tokens in (100, 4000, 4000, 4000):
        worker.add_prompt(Job(Request(0.0, tokens, 2)))
    ends, counts = [], []
    while (at := worker.next_event()) is not None:
        worker.advance(at)
        ends.append(at)
        counts.append(len(worker.take_ended()[0]))

    steps = [LLAMA.capacity.prefill_alone(tokens) for tokens in (100, 8000, 4000)]
    assert counts == [1, 2, 1]
    assert ends == pytest.approx([steps[0], sum(steps[:2]), sum(steps)])
    assert worker.queued_tokens == 0


@pytest.mark.parametrize("colocated", [0, 2])
def test_every_request_is_answered(colocated: int) -> None:
    """Also where workers do both, whose sequences slow down while prompts are computed."""
    requests = even(2000, 0.05)
    outcome = fleet(requests, colocated=colocated).run()

    assert outcome.requests == 2000
    assert outcome.tokens == 2000 * 1100
    assert outcome.worker_seconds == pytest.approx(2 * outcome.seconds)


def test_prefill_slows_the_decode_of_a_worker_that_does_both() -> None:
    """At the same load tokens come later than from a worker that only decodes."""
    objectives = Objectives(1.0, 0.0105)
    requests = even(600, 0.05, 2000, 200)

    def slow(colocated: int) -> int:
        run = fleet(requests, colocated=colocated)
        run.outcome.objectives = objectives
        return run.run().slow

    assert slow(2) > slow(0)


def test_a_queue_that_cannot_keep_up_is_given_up() -> None:
    """The search for a fixed split does not play what is lost already."""
    outcome = fleet(even(20_000, 0.005), give_up=0.95).run()

    assert outcome.requests < 20_000
    assert outcome.attainment < 0.95


class Orders:
    """Does what the test says at a tick."""

    name = "orders"

    def __init__(self, orders: dict[int, Split], *, flips: bool = True) -> None:
        self.orders = orders
        self.flips = flips
        self.views: list[View] = []

    def decide(self, view: View) -> Split | None:
        """See `Policy`."""
        self.views.append(view)
        return self.orders.get(len(self.views))


def test_an_added_worker_serves_after_its_cold_start() -> None:
    """Until then it costs and does nothing."""
    policy = Orders({1: Split(2, 1)})
    outcome = fleet(even(2400, 0.05), policy).run()
    serving = [view.ready.prefill for view in policy.views]
    first = serving.index(2)

    assert (first - 1) * 5.0 == pytest.approx(LLAMA.cold_start_seconds, abs=10.0)
    assert outcome.moves == 1
    assert outcome.worker_seconds == pytest.approx(3 * outcome.seconds - 5.0, abs=1.0)


def test_a_flip_drains_first_and_loses_nothing() -> None:
    """The donor's sequences end, or move at the deadline; then it serves the other role."""
    requests = even(2400, 0.05, 1000, 400)
    policy = Orders({4: Split(1, 2)})
    outcome = fleet(requests, policy, start=Split(2, 1)).run()

    assert outcome.requests == 2400
    assert (outcome.flips, outcome.moves) == (1, 1)
    assert policy.views[-1].ready == Split(1, 2)
    assert outcome.worker_seconds == pytest.approx(3 * outcome.seconds)


def test_the_budget_counts_workers_that_end() -> None:
    """While one drains, none is made in its place."""
    policy = Orders({2: Split(1, 1), 3: Split(2, 1), 4: Split(2, 2)}, flips=False)
    played = fleet(even(2000, 0.05, 1000, 400), policy, start=Split(1, 2), max_workers=3)
    played.run()

    assert max(view.signals.prefill + view.signals.decode for view in policy.views) <= 3


def test_what_is_seen_is_one_tick_old() -> None:
    """A scrape takes its time, for every policy."""
    policy = Orders({})
    fleet(even(100, 0.1), policy).run()

    assert policy.views[0].signals.requests == 0
    assert policy.views[1].signals.requests == 51  # arrivals of the first five seconds


def test_dynamos_formula_by_hand() -> None:
    """Demand / engine_rps, rounded up: 20 requests/s of 1,000 in and 200 out."""
    window = [Signals(5.0, 100, 100_000, 1e8, 100, 20_000, 120_000, 0, 0, 1, 1)] * 36
    capacity = LLAMA.capacity
    # A step of 8,192 tokens takes 4 ms besides them.
    prefill_rps = 1 / (1000 / 27_400 + 0.004 * 1000 / 8192)  # 27.0
    most = int((0.030 - 0.0064) / (1.6e-5 + 4.4e-8 * 1100))  # 366 sequences in 30 ms

    assert capacity.sequences_within(0.030, 1100) == most
    assert prefill_rps == pytest.approx(27.0, abs=0.1)
    assert throughput_split(window, LLAMA) == Split(1, 1)
    five_times = [Signals(5.0, 500, 500_000, 5e8, 500, 100_000, 600_000, 0, 0, 1, 1)] * 36
    # 100 / 27.0 = 3.7; 100 * 200 / (366 / 0.030) = 1.6
    assert throughput_split(five_times, LLAMA) == Split(4, 2)


@pytest.mark.parametrize(
    "policy", [Threshold(LLAMA, 8), Sla(LLAMA, 8), Steelyard(LLAMA, 8)], ids=lambda p: p.name
)
def test_policies_follow_a_rising_load(policy: Policy) -> None:
    """Four times the arrivals of the start need more prefill workers at the end."""
    quiet, busy = even(1200, 0.1), even(24_000, 0.0125)
    requests = quiet + [Request(120 + r.at, r.input_tokens, r.output_tokens) for r in busy]
    played = fleet(requests, policy)
    played.run()

    assert played.split().prefill >= 3
    assert played.split().total <= 8


def test_both_formats_are_read(tmp_path: Path) -> None:
    """By their first line; times start at 0."""
    azure, mooncake = tmp_path / "a.csv", tmp_path / "m.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9805900,396,109\n"
    )
    mooncake.write_text(
        '{"timestamp": 2000, "input_length": 7, "output_length": 3, "hash_ids": [1]}\n'
        '{"timestamp": 1000, "input_length": 5, "output_length": 2, "hash_ids": []}\n'
    )

    assert read_trace(azure) == [Request(0.0, 374, 44), Request(pytest.approx(4.3), 396, 109)]
    assert read_trace(mooncake) == [Request(0.0, 5, 2), Request(1.0, 7, 3)]


@pytest.mark.parametrize("text", ["", "hello\n", "TIMESTAMP,ContextTokens\n2023-11-16,1\n"])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    """One sentence that names the file."""
    path = tmp_path / "trace"
    path.write_text(text)

    with pytest.raises(UserError, match=str(path)):
        read_trace(path)


def test_scaling_copies_and_shifts() -> None:
    """The same seed gives the same trace; the first copy stays where it was."""
    requests = even(100, 1.0)
    tenfold = scaled(requests, 10)

    assert len(tenfold) == 1000
    assert tenfold == scaled(requests, 10)
    assert set(requests) <= set(tenfold)
    assert len(scaled(requests, 0.5)) < 100


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    lines = (
        json.dumps({"timestamp": 50 * i, "input_length": 1500, "output_length": 60})
        for i in range(4000)
    )
    path.write_text("\n".join(lines))
    return path


def test_the_command_prints_one_object_a_policy(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys that scripts read."""
    code = main(
        ["simulate", "--trace", str(trace), "--profile", LLAMA.name, "--policy", "all", "--json"]
    )

    rows = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [row["policy"] for row in rows] == [
        *("static", "threshold", "sla", "steelyard", "steelyard-noflip")
    ]
    assert set(rows[0]) == {
        *("policy", "attainment", "goodput_rps", "accelerator_hours"),
        *("cost_per_million_tokens", "moves", "seconds"),
    }
    assert {row["policy"]: row["attainment"] >= 0.95 for row in rows}["static"]
    assert {row["policy"]: row["attainment"] >= 0.95 for row in rows}["steelyard"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--profile", "tpu"], f"must be one of: {', '.join(sorted(PROFILES))}; got 'tpu'"),
        (["--profile", LLAMA.name, "--policy", "best"], "got 'best'"),
        (["--profile", LLAMA.name, "--trace-scale", "-1"], "must be a number above 0"),
        (["--profile", LLAMA.name, "--start", "3"], "two numbers above 0 such as 3+1"),
        (["--profile", LLAMA.name, "--max-workers", "2", "--trace-scale", "30"], "no fixed split"),
    ],
)
def test_wrong_flags_are_one_sentence(
    trace: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    """What, where, what is allowed; exit code 2."""
    code = main(["simulate", "--trace", str(trace), *flags])

    assert code == 2
    assert message in capsys.readouterr().err
