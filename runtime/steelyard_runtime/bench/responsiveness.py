"""Whether the step loop and the HTTP loop block each other, both measured under load.

The HTTP loop's side: how long `/health` takes while the engine is busy with prefills. The step
loop's side: what a step spends outside its forward pass (scheduling, sampling, frames).
"""

import asyncio
import time
from statistics import median

import aiohttp

from steelyard_runtime.bench.load import Shape, closed_loop, percentile

CONCURRENCY = 4
PROBE_INTERVAL_SECONDS = 0.02


async def responsiveness(url: str, model: str, requests: int) -> dict[str, float]:
    """Load the worker with 256-token prompts and probe it meanwhile; milliseconds."""
    before = await _totals(url)
    done = asyncio.Event()
    probes: list[float] = []

    async def probe() -> None:
        async with aiohttp.ClientSession() as session:
            while not done.is_set():
                started = time.perf_counter()
                async with session.get(f"{url}/health") as answer:
                    await answer.read()
                probes.append((time.perf_counter() - started) * 1e3)
                await asyncio.sleep(PROBE_INTERVAL_SECONDS)

    prober = asyncio.create_task(probe())
    await closed_loop(url, Shape(model), concurrency=CONCURRENCY, requests=requests, seed=99)
    done.set()
    await prober
    after = await _totals(url)
    steps = after["steelyard:step_seconds_count"] - before["steelyard:step_seconds_count"]
    spent = after["steelyard:step_seconds_sum"] - before["steelyard:step_seconds_sum"]
    forward = after["steelyard:forward_seconds_sum"] - before["steelyard:forward_seconds_sum"]
    return {
        "health_probes": len(probes),
        "health_p50_milliseconds": median(probes),
        "health_p99_milliseconds": percentile(probes, 99),
        "steps": steps,
        "step_outside_forward_milliseconds": (spent - forward) / steps * 1e3,
    }


async def _totals(url: str) -> dict[str, float]:
    """Return the metrics of this page, summed over labels."""
    totals: dict[str, float] = {}
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                base = name.partition("{")[0]
                totals[base] = totals.get(base, 0.0) + float(value)
    return totals
