"""Side by side with vLLM on a CPU and with transformers: the same float32 weights, one machine.

`python -m steelyard_runtime.bench.peers [--vllm-python PATH]`. Servers are started anew several
times in alternating order; a figure is the median of all repetitions, a ratio is ours over the
peer's, start by start, with its range. vLLM lives in an environment of its own
(`docs/benchmarks.md` says how it is made); without it only transformers is measured.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steelyard_runtime.bench.float32_checkpoint import write_float32_directory
from steelyard_runtime.bench.load import Shape, closed_loop
from steelyard_runtime.bench.report import table, write
from steelyard_runtime.bench.transformers_generate import tokens_per_second
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.processes import SMOLLM2, Worker, fetch, free_port, wait_for

NAME = "bench"
CONCURRENCIES = (1, 16)
VLLM_START_SECONDS = 400.0
STOP_SECONDS = 30.0
Server = Callable[[Path, Path], contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def steelyard(model: Path, folder: Path) -> Iterator[str]:
    """Our worker with all cores; yields its URL."""
    flags = ["--served-model-name", NAME, "--kv-cache-memory-bytes", "2G"]
    with Worker(model.as_uri(), log=folder / "steelyard.log", flags=flags) as worker:
        yield worker.wait_ready().url


def vllm(python: Path, *extra: str) -> Server:
    """Return a maker of vLLM servers with all cores and its preloaded libraries."""

    @contextlib.contextmanager
    def start(model: Path, folder: Path) -> Iterator[str]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        with (folder / "vllm.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    str(python.with_name("vllm")), "serve", str(model),
                    "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
                    "--max-model-len", "2048", "--dtype", "float32", *extra,
                ],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=vllm_environment(python, folder),
            )  # fmt: skip
            try:
                wait_for(lambda: _healthy(process, url), "vLLM ready", VLLM_START_SECONDS)
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    return start


def vllm_environment(python: Path, folder: Path) -> dict[str, str]:
    """The settings that vLLM's own documentation recommends for a CPU."""
    cores = len(os.sched_getaffinity(0))
    preloads = [
        *Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"),
        python.parent.parent / "lib" / "libiomp5.so",
    ]
    return {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
        "HF_HUB_OFFLINE": "1",
        "LD_PRELOAD": ":".join(str(each) for each in preloads if each.exists()),
    }


def _healthy(process: subprocess.Popen[bytes], url: str) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"vLLM exited with {process.returncode} at start; see vllm.log")
    try:
        fetch(f"{url}/health", seconds=5.0)
    except OSError:
        return False
    return True


async def measure(url: str, repetitions: int, waves: int, seed: int) -> dict[int, list[float]]:
    """Return output tokens/s of each repetition, by concurrency."""
    await closed_loop(url, Shape(NAME), concurrency=1, requests=2, seed=seed)
    speeds: dict[int, list[float]] = {}
    for concurrency in CONCURRENCIES:
        for repetition in range(repetitions):
            run = await closed_loop(
                url,
                Shape(NAME),
                concurrency=concurrency,
                requests=waves * concurrency if concurrency > 1 else waves + 1,
                seed=seed * 1000 + repetition * 10 + concurrency,
            )
            speed = run.summary()["output_tokens_per_second"]
            speeds.setdefault(concurrency, []).append(speed)
    return speeds


def compare(
    servers: dict[str, Server], model: Path, folder: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[int, list[float]]]]:
    """Return, for each server, one entry a start."""
    results: dict[str, list[dict[int, list[float]]]] = {name: [] for name in servers}
    for start in range(arguments.starts):
        order = list(servers)
        if start % 2:
            order.reverse()
        for name in order:
            with servers[name](model, folder) as url:
                found = asyncio.run(measure(url, arguments.repetitions, arguments.waves, start))
            results[name].append(found)
            medians = {key: round(statistics.median(each), 1) for key, each in found.items()}
            sys.stderr.write(f"start {start + 1}, {name}: {medians} tokens/s\n")
    return results


def summarise(results: dict[str, list[dict[int, list[float]]]]) -> list[dict[str, Any]]:
    """Return one row a server and concurrency, with our ratio to it."""
    rows = []
    for name, starts in results.items():
        for concurrency in CONCURRENCIES:
            own = [statistics.median(each[concurrency]) for each in starts]
            ours = [statistics.median(each[concurrency]) for each in results["steelyard"]]
            ratios = [mine / theirs for mine, theirs in zip(ours, own, strict=True)]
            rows.append(
                {
                    "server": name,
                    "concurrency": concurrency,
                    "tokens_per_second": statistics.median(
                        speed for each in starts for speed in each[concurrency]
                    ),
                    "our_ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                }
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_runtime.bench.peers")
    parser.add_argument("--vllm-python", type=Path, help="the Python of vLLM's environment")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--waves", type=int, default=2, help="requests a client slot")
    arguments = parser.parse_args(argv)
    servers: dict[str, Server] = {"steelyard": steelyard}
    if arguments.vllm_python is not None:
        servers["vllm eager"] = vllm(arguments.vllm_python, "--enforce-eager")
        servers["vllm compiled"] = vllm(arguments.vllm_python)
    with tempfile.TemporaryDirectory(prefix="steelyard-peers-") as name:
        folder = Path(name)
        model = folder / "float32"
        write_float32_directory(resolve(SMOLLM2), model)
        generate = tokens_per_second(model, repetitions=arguments.repetitions)
        results = compare(servers, model, folder, arguments)
    rows = summarise(results)
    ours = next(row for row in rows if row["server"] == "steelyard" and row["concurrency"] == 1)
    rows.append(
        {
            "server": "transformers generate",
            "concurrency": 1,
            "tokens_per_second": generate,
            "our_ratio": ours["tokens_per_second"] / generate,
        }
    )
    print(table(rows))
    print(f"\n{write('peers', {'rows': rows, 'starts': results})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
