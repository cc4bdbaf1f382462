"""Recorded runs of a prefill and a decode worker under arrivals that do not wait for answers.

`python -m steelyard_runtime.bench.open_loop [--rates R,R,R] [--seconds S]` plays Poisson arrivals
of mixed sizes at each rate and writes, for each run, every request with its TTFT and TPOT and what
the workers' steps summed up to: what the simulator is fitted on and judged by.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from steelyard_runtime.bench.load import TIMEOUT_SECONDS, TOKEN_IDS, Shape, complete
from steelyard_runtime.bench.report import table, write
from steelyard_runtime.bench.serve import NAME, split
from steelyard_runtime.testing.processes import SMOLLM2, Worker

# Sizes are drawn evenly, in tokens.
INPUT_TOKENS, OUTPUT_TOKENS = range(128, 513), range(16, 49)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to come."""

    at: float  # seconds from the start
    input_tokens: int
    output_tokens: int


def arrivals(rate: float, seconds: float, seed: int) -> list[Arrival]:
    """Return Poisson arrivals at `rate` a second.

    Args:
        rate: requests a second.
        seconds: until the last one at the latest.
        seed: of times and sizes.
    """
    draw = random.Random(seed)
    found: list[Arrival] = []
    at = draw.expovariate(rate)
    while at < seconds:
        found.append(Arrival(at, draw.choice(INPUT_TOKENS), draw.choice(OUTPUT_TOKENS)))
        at += draw.expovariate(rate)
    return found


async def play(url: str, coming: Sequence[Arrival], seed: int) -> list[dict[str, Any]]:
    """Send each request at its time; returns one record a request, in order of arrival.

    Raises:
        RuntimeError: the server refused one.
    """
    draw = random.Random(seed)
    prompts = [[draw.choice(TOKEN_IDS) for _ in range(each.input_tokens)] for each in coming]
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        started = time.perf_counter()

        async def one(arrival: Arrival, prompt: list[int]) -> dict[str, Any]:
            await asyncio.sleep(max(0.0, started + arrival.at - time.perf_counter()))
            at = time.perf_counter() - started
            shape = Shape(NAME, arrival.input_tokens, arrival.output_tokens)
            sample = await complete(session, url, shape, prompt)
            return {
                "at": round(at, 4),
                "input_tokens": arrival.input_tokens,
                "output_tokens": arrival.output_tokens,
                "ttft_seconds": round(sample.ttft_seconds, 5),
                "tpot_seconds": round(sample.tpot_seconds, 6),
            }

        pairs = zip(coming, prompts, strict=True)
        return list(await asyncio.gather(*(one(arrival, prompt) for arrival, prompt in pairs)))


def record(url: str, workers: Sequence[Worker], rate: float, seconds: float) -> dict[str, Any]:
    """Play one rate; returns the run with each worker's `steps` before and after it."""
    before = [worker.state()["steps"] for worker in workers]
    seed = round(rate * 1000)
    requests = asyncio.run(play(url, arrivals(rate, seconds, seed), seed))
    after = [worker.state()["steps"] for worker in workers]
    names = [worker.role for worker in workers]
    return {
        "rate": rate,
        "requests": requests,
        "steps": {
            name: {"before": old, "after": new}
            for name, old, new in zip(names, before, after, strict=True)
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Record and report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_runtime.bench.open_loop")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rates", default="1.2,0.6,1.6", help="requests a second, one run each")
    parser.add_argument("--seconds", type=float, default=120.0, help="of arrivals in each run")
    arguments = parser.parse_args(argv)
    runs = []
    with (
        tempfile.TemporaryDirectory(prefix="steelyard-bench-") as name,
        split(arguments, Path(name)) as (url, workers),
    ):
        record(url, workers, 1.0, 10.0)  # Warm-up.
        for rate in (float(text) for text in arguments.rates.split(",")):
            runs.append(record(url, workers, rate, arguments.seconds))
            sys.stderr.write(f"{rate} requests a second: done\n")
    print(table([_row(run) for run in runs]))
    print(f"\n{write('open-loop', {'runs': runs})}")
    return 0


def _row(run: dict[str, Any]) -> dict[str, float]:
    requests = run["requests"]
    return {
        "rate": run["rate"],
        "requests": len(requests),
        "ttft_p50_milliseconds": 1e3 * statistics.median(one["ttft_seconds"] for one in requests),
        "tpot_p50_milliseconds": 1e3 * statistics.median(one["tpot_seconds"] for one in requests),
    }


if __name__ == "__main__":
    sys.exit(main())
