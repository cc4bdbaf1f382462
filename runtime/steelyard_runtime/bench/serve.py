"""What serving costs: TTFT, TPOT and tokens/s, colocated and split; time outside the forward pass.

`python -m steelyard_runtime.bench.serve [--model URI] [--quick] [--device cpu|cuda]` starts real
workers and a router on loopback, measures in a closed loop and prints a table; the JSON is written
to `bench-results/serve.json`.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steelyard_runtime.bench.load import Shape, closed_loop
from steelyard_runtime.bench.outside import outside_forward
from steelyard_runtime.bench.report import table, write
from steelyard_runtime.bench.responsiveness import responsiveness
from steelyard_runtime.testing.processes import SMOLLM2, Router, Worker

NAME = "bench"
CONCURRENCIES = (1, 4, 16)


def _flags(arguments: argparse.Namespace, threads: int) -> list[str]:
    return [
        "--served-model-name",
        NAME,
        "--device",
        arguments.device,
        "--threads",
        str(threads),
        "--kv-cache-memory-bytes",
        "1G",
    ]


@contextlib.contextmanager
def colocated(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """One worker with all cores; yields its URL."""
    threads = len(os.sched_getaffinity(0))
    with Worker(
        arguments.model, log=folder / "worker.log", flags=_flags(arguments, threads)
    ) as worker:
        yield worker.wait_ready().url


@contextlib.contextmanager
def split(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[Worker]]]:
    """A prefill and a decode worker, half the cores each; yields the router's URL and both."""
    threads = max(len(os.sched_getaffinity(0)) // 2, 1)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(
                    arguments.model,
                    log=folder / f"{role}.log",
                    role=role,
                    flags=_flags(arguments, threads),
                )
            )
            for role in ("prefill", "decode")
        ]
        router = stack.enter_context(Router(NAME, folder=folder))
        for worker in workers:
            worker.wait_ready()
        router.write_members([worker.member(worker.role) for worker in workers])
        yield router.wait_ready().url, workers


async def throughput(
    setup: str, url: str, concurrencies: Sequence[int], repetitions: int
) -> list[dict[str, Any]]:
    """Return one row a concurrency: the medians over the repetitions."""
    await closed_loop(url, Shape(NAME), concurrency=1, requests=1, seed=0)
    rows = []
    for concurrency in concurrencies:
        summaries = [
            (
                await closed_loop(
                    url,
                    Shape(NAME),
                    concurrency=concurrency,
                    requests=max(6, 3 * concurrency),
                    seed=1000 * repetition + concurrency,
                )
            ).summary()
            for repetition in range(repetitions)
        ]
        medians = {key: statistics.median(each[key] for each in summaries) for key in summaries[0]}
        rows.append({"setup": setup, "concurrency": concurrency, **medians})
        sys.stderr.write(f"{setup} at {concurrency}: done\n")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_runtime.bench.serve")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition, concurrency 1 only")
    arguments = parser.parse_args(argv)
    concurrencies = (1,) if arguments.quick else CONCURRENCIES
    repetitions = 1 if arguments.quick else arguments.repetitions
    rounds = 10 if arguments.quick else 60
    with tempfile.TemporaryDirectory(prefix="steelyard-bench-") as name:
        folder = Path(name)
        with colocated(arguments, folder) as url:
            rows = asyncio.run(throughput("colocated", url, concurrencies, repetitions))
            outside = [
                {"path": "direct", **asyncio.run(outside_forward(url, NAME, rounds))},
            ]
            loops = asyncio.run(responsiveness(url, NAME, requests=4 * repetitions))
        with split(arguments, folder) as (router_url, workers):
            decode_url = workers[1].url
            rows += asyncio.run(throughput("split", router_url, concurrencies, repetitions))
            outside += [
                {"path": "split direct", **asyncio.run(outside_forward(decode_url, NAME, rounds))},
                {"path": "router", **asyncio.run(outside_forward(router_url, NAME, rounds))},
            ]
    print(table(rows))
    print("\nOutside the forward pass: from a token's logits to its SSE bytes at the client")
    print(table(outside))
    print("\nUnder load: the HTTP loop answers, the step loop steps")
    print(table([loops]))
    figures = {"serving": rows, "outside_forward": outside, "responsiveness": loops}
    print(f"\n{write('serve', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
