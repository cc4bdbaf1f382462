"""The comparison with recorded runs: a run that the simulator itself made is predicted exactly."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.fit import DECODE, PREFILL
from steelyard_operator.simulation.fidelity import compare, fitted, main, predicted
from steelyard_operator.simulation.profiles import profile
from steelyard_operator.simulation.traces import Request

ROOT = Path(__file__).parents[3]
RECORDED = ROOT / "docs/benchmarks/2026-11-27-open-loop.json"
GPT_OSS = profile("gpt-oss-20b-h100")
TRUE = replace(GPT_OSS, capacity=replace(GPT_OSS.capacity, prefill_step_tokens=256))
TRANSFER_SECONDS = 0.25


def steps(scale: float = 1.0) -> dict[str, Any]:
    """The sums of steps of a worker that is exactly as the profile says."""
    prefill, decode = dict.fromkeys(PREFILL, 0.0), dict.fromkeys(DECODE, 0.0)
    capacity = TRUE.capacity
    for tokens in (100, 256, 60, 200, 256, 30) * 20:
        seconds = scale * (
            capacity.prefill_overhead_seconds + tokens / capacity.prefill_tokens_per_second
        )
        values = (1, seconds, tokens, tokens**2, tokens * seconds)
        for name, value in zip(PREFILL, values, strict=True):
            prefill[name] += value
    for count, tokens in ((1, 300), (4, 2000), (9, 3000), (30, 20_000), (60, 25_000)) * 40:
        seconds = capacity.step(count, tokens)
        values = (
            *(1, seconds, count, tokens, count**2, tokens**2, count * tokens),
            *(count * seconds, tokens * seconds),
        )
        for name, value in zip(DECODE, values, strict=True):
            decode[name] += value
    return {"prefill": prefill, "decode": decode, "kvTokens": 1_000_000, "maxSequences": 512}


def nothing() -> dict[str, Any]:
    return {
        "prefill": dict.fromkeys(PREFILL, 0.0),
        "decode": dict.fromkeys(DECODE, 0.0),
        "kvTokens": 1_000_000,
        "maxSequences": 512,
    }


def recorded(every: float, scale: float = 1.0) -> dict[str, Any]:
    """A run as it is recorded, its times made by the simulator with the true profile."""
    requests = [
        Request(round(number * every, 4), 200 + number % 7 * 100, 20 + number % 3 * 10)
        for number in range(60)
    ]
    true = replace(TRUE, transfer_seconds=TRANSFER_SECONDS, transfer_seconds_per_token=0.0)
    times = predicted(true, requests)
    return {
        "rate": 1 / every,
        "requests": [
            {
                "at": one.at,
                "input_tokens": one.input_tokens,
                "output_tokens": one.output_tokens,
                "ttft_seconds": times[one].ttft,
                "tpot_seconds": times[one].tpot,
            }
            for one in requests
        ],
        "steps": {"prefill": {"before": nothing(), "after": steps(scale)}},
    }


def test_what_the_simulator_made_is_predicted() -> None:
    """Also at loads that were not fitted; what transfers take is found from the times."""
    runs = [recorded(0.05), recorded(0.1), recorded(0.03)]

    found = fitted(runs[0])
    assert found.transfer_seconds == pytest.approx(TRANSFER_SECONDS, rel=0.02)
    rows = compare(found, runs)
    assert {row["rate"] for row in rows} == {run["rate"] for run in runs}
    assert [row["fitted"] for row in rows[:5]] == [True] * 4 + [False]
    assert max(abs(row["error_percent"]) for row in rows) < 3.0


def test_another_machine_is_seen() -> None:
    """Steps that took three times as long as the times say are an error, not a fit."""
    runs = [recorded(0.05, scale=1.0), recorded(0.05)]
    for one in runs[1]["requests"]:
        one["ttft_seconds"] *= 3

    errors = {
        row["figure"]: row["error_percent"]
        for row in compare(fitted(runs[0]), runs)
        if not row["fitted"]
    }
    assert errors["ttft_p50_milliseconds"] == pytest.approx(-66.7, abs=3)


def test_a_file_is_compared_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fitted capacity first, then a line for each run and figure."""
    path = tmp_path / "open-loop.json"
    path.write_text(json.dumps({"runs": [recorded(0.05), recorded(0.1)]}))

    assert main([str(path)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert json.loads(first)["step_seconds"] > 0
    assert [line.split()[0] for line in lines] == 2 * [
        "ttft_p50_milliseconds",
        "ttft_mean_milliseconds",
        "tpot_p50_milliseconds",
        "output_tokens_per_second",
    ]


def test_a_run_without_steps_is_refused() -> None:
    """There is nothing to fit."""
    run = recorded(0.05) | {"steps": {"prefill": {"before": nothing(), "after": nothing()}}}

    with pytest.raises(UserError, match="too few steps"):
        fitted(run)


def test_real_workers_are_predicted() -> None:
    """Loads that were not fitted: medians and throughput of the recorded runs within 15 %."""
    runs = json.loads(RECORDED.read_text())["runs"]
    rows = compare(fitted(runs[0]), runs)

    judged = [row for row in rows if not row["fitted"]]
    assert len(judged) == 8
    assert {row["figure"]: row for row in judged if abs(row["error_percent"]) > 15} == {}


def test_the_profile_of_a_cpu_is_the_recorded_one() -> None:
    """Its numbers are those of the fit, rounded."""
    found, kept = fitted(json.loads(RECORDED.read_text())["runs"][0]), profile("smollm2-cpu")

    assert kept.transfer_seconds == pytest.approx(found.transfer_seconds, rel=0.02)
    for name, value in asdict(found.capacity).items():
        assert getattr(kept.capacity, name) == pytest.approx(value, rel=0.02), name
