"""What the router costs: added latency, CPU per event, memory per stream.

`python -m steelyard_runtime.bench.router [--quick]` starts a fake worker, a router and a bare
pass-through as processes, drives them in turns, prints a table and writes JSON.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median

import uvloop

from steelyard_runtime.bench.raw_client import RawConnection, Timing, connect, request_bytes
from steelyard_runtime.bench.report import table, write

TARGETS = {
    "added_ttft_median_ms": 2.0,
    "added_ttft_p99_ms_of_32": 15.0,
    "cpu_per_event_us": 40.0,
    "rss_growth_mb": 5.0,
}
_API_KEY = "bench-key"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _body(tokens: int) -> dict[str, object]:
    prompt = "What does a steelyard weigh, and how? " * 20
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "max_tokens": tokens, "stream": True, "seed": 1}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


class Bench:
    """A worker and what stands in front of it, running."""

    def __init__(self, worker_port: int, router_port: int, router_pid: int) -> None:
        self._worker_port = worker_port
        self._router_port = router_port
        self._router_pid = router_pid

    def _direct(self, tokens: int) -> bytes:
        return request_bytes(self._worker_port, {**_body(tokens), "return_token_ids": True})

    def _through(self, tokens: int) -> bytes:
        return request_bytes(self._router_port, _body(tokens), _API_KEY)

    async def one_at_a_time(self, rounds: int) -> dict[str, float]:
        """Latency added at concurrency 1, direct and through in turns."""
        direct, through = await connect(self._worker_port), await connect(self._router_port)
        timings: dict[str, list[Timing]] = {"direct": [], "through": []}
        for _ in range(rounds):
            timings["direct"].append(await direct.send(self._direct(4)))
            timings["through"].append(await through.send(self._through(4)))
        first = {name: [one.first_token_seconds for one in all_] for name, all_ in timings.items()}
        total = {name: [one.total_seconds for one in all_] for name, all_ in timings.items()}
        return {
            "direct_ttft_median_ms": median(first["direct"]) * 1e3,
            "added_ttft_median_ms": (median(first["through"]) - median(first["direct"])) * 1e3,
            "added_total_median_ms": (median(total["through"]) - median(total["direct"])) * 1e3,
        }

    async def together(self, rounds: int, streams: int = 32) -> dict[str, float]:
        """TTFT added when many arrive at once."""
        first: dict[str, list[float]] = {"direct": [], "through": []}
        added = []
        before = _cpu_seconds(self._router_pid)
        for _ in range(rounds):
            firsts = {}
            for name, port, request in (
                ("direct", self._worker_port, self._direct(4)),
                ("through", self._router_port, self._through(4)),
            ):
                connections = [await connect(port) for _ in range(streams)]
                done = await asyncio.gather(*(one.send(request) for one in connections))
                firsts[name] = sorted(one.first_token_seconds for one in done)
                first[name] += firsts[name]
                _close(connections)
                await asyncio.sleep(0.05)
            pairs = zip(firsts["direct"], firsts["through"], strict=True)
            added += [through - direct for direct, through in pairs]
        spent = _cpu_seconds(self._router_pid) - before
        return {
            "cpu_per_request_us_of_32": spent / (rounds * streams) * 1e6,
            "direct_ttft_p99_ms_of_32": percentile(first["direct"], 99) * 1e3,
            "through_ttft_p99_ms_of_32": percentile(first["through"], 99) * 1e3,
            "added_ttft_p99_ms_of_32": percentile(added, 99) * 1e3,
        }

    async def cpu_per_event(self, streams: int, tokens: int) -> dict[str, float]:
        """CPU of the router process for each event that it relays."""
        connections = [await connect(self._router_port) for _ in range(streams)]
        await asyncio.gather(*(one.send(self._through(4)) for one in connections))
        before = _cpu_seconds(self._router_pid)
        done = await asyncio.gather(*(one.send(self._through(tokens)) for one in connections))
        spent = _cpu_seconds(self._router_pid) - before
        _close(connections)
        events = streams * (tokens + 2)  # the role and `[DONE]`
        return {
            "cpu_per_event_us": spent / events * 1e6,
            "events_per_read": events / sum(one.reads for one in done),
        }

    async def memory(self, streams: int, mark: int, concurrency: int = 16) -> dict[str, float]:
        """RSS growth from stream number `mark` to the last; clients abort a tenth."""
        marks: dict[int, int] = {}
        numbers = iter(range(1, streams + 1))

        async def drive() -> None:
            connection = await connect(self._router_port)
            for number in numbers:
                if not connection.usable:
                    connection = await connect(self._router_port)
                await connection.send(self._through(8), abort_after_first=number % 10 == 0)
                if number in (mark, streams):
                    marks[number] = _rss_bytes(self._router_pid)
            _close([connection])

        await asyncio.gather(*(drive() for _ in range(concurrency)))
        return {
            "rss_mb": marks[streams] / 1e6,
            "rss_growth_mb": (marks[streams] - marks[mark]) / 1e6,
        }


def _close(connections: Sequence[RawConnection]) -> None:
    for one in connections:
        one.close()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Bench, Bench]]:
    """Start a worker, a router and a bare pass-through as processes of their own."""
    worker_port, router_port, bare_port = _free_port(), _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        membership = Path(folder) / "membership.json"
        member = {"id": "w0", "url": f"http://127.0.0.1:{worker_port}", "role": "both"}
        member |= {"phase": "ready", "fingerprint": "f"}
        membership.write_text(json.dumps({"version": 1, "workers": [member]}))
        keys = Path(folder) / "keys"
        keys.write_text(_API_KEY + "\n")
        worker = _start(
            stack,
            "steelyard_runtime.testing.fake_worker",
            "--port",
            str(worker_port),
            "--event-gap-seconds",
            "0.002",
        )
        router = _start(
            stack,
            "steelyard_runtime.cli",
            *("router", "--port", str(router_port), "--membership-file", str(membership)),
            *("--served-model-name", "fake", "--api-keys-file", str(keys)),
            *("--log-level", "warning"),
        )
        bare = _start(
            stack,
            "steelyard_runtime.bench.pass_through",
            *("--port", str(bare_port), "--to", f"http://127.0.0.1:{worker_port}"),
        )
        for port, process in ((worker_port, worker), (router_port, router), (bare_port, bare)):
            await _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield (
            Bench(worker_port, router_port, router.pid),
            Bench(worker_port, bare_port, bare.pid),
        )


def _start(stack: contextlib.ExitStack, module: str, *flags: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", module, *flags])
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


async def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(20):
        while process.poll() is None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=1)
                return
            await asyncio.sleep(0.05)
    raise SystemExit(f"{url} ended before it answered")


async def measure(*, quick: bool) -> dict[str, dict[str, float]]:
    """Run all four measurements; the pass-through shows what the machine itself costs."""
    rounds, bursts, tokens = (100, 5, 300) if quick else (500, 30, 1500)
    figures: dict[str, dict[str, float]] = {}
    async with running() as (router, bare):
        for name, bench in (("router", router), ("pass-through", bare)):
            await bench.one_at_a_time(50)  # Warm-up.
            figures[name] = {
                **await bench.one_at_a_time(rounds),
                **await bench.together(bursts),
                **await bench.cpu_per_event(8, tokens),
            }
        figures["router"] |= await router.memory(*((2000, 200) if quick else (10_000, 1000)))
    return figures


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    figures = uvloop.run(measure(quick=parser.parse_args().quick))
    rows = [
        {
            "figure": name,
            "router": value,
            "pass-through": figures["pass-through"].get(name, ""),
            "target": TARGETS.get(name, ""),
        }
        for name, value in figures["router"].items()
    ]
    print(table(rows))
    print(write("router", {"targets": TARGETS, **figures}))


if __name__ == "__main__":
    main()
