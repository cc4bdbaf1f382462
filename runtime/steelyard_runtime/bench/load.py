"""A load generator for any OpenAI-compatible server: closed loop, streamed completions.

Prompts are random token ids, so that no server profits from a prefix cache and none tokenises.
TTFT is from sending to the first chunk that has a choice; TPOT is (last - first) / (tokens - 1).
"""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

# Ids below are special in SmolLM2's vocabulary, ids above are not in every tokenizer.
TOKEN_IDS = range(20, 49_000)
TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What one request asks for."""

    model: str
    prompt_tokens: int = 256
    output_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request; seconds."""

    ttft_seconds: float
    tpot_seconds: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """One closed-loop run at one concurrency."""

    concurrency: int
    samples: list[Sample]
    seconds: float

    def summary(self) -> dict[str, float]:
        """Medians, 95th percentiles and throughput, with units in the names."""
        ttft = [sample.ttft_seconds * 1e3 for sample in self.samples]
        tpot = [sample.tpot_seconds * 1e3 for sample in self.samples]
        tokens = sum(sample.output_tokens for sample in self.samples)
        return {
            "requests": len(self.samples),
            "ttft_p50_milliseconds": statistics.median(ttft),
            "ttft_p95_milliseconds": percentile(ttft, 95),
            "tpot_p50_milliseconds": statistics.median(tpot),
            "tpot_p95_milliseconds": percentile(tpot, 95),
            "output_tokens_per_second": tokens / self.seconds,
        }


def percentile(values: list[float], percent: float) -> float:
    """Return the percentile by linear interpolation."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


async def closed_loop(
    url: str, shape: Shape, *, concurrency: int, requests: int, seed: int
) -> Repetition:
    """Keep `concurrency` requests in flight until `requests` are done.

    Raises:
        RuntimeError: the server answered with anything but 200, or with too few tokens.
    """
    generator = random.Random(seed)  # prompts are not secrets
    prompts = [
        [generator.choice(TOKEN_IDS) for _ in range(shape.prompt_tokens)] for _ in range(requests)
    ]
    samples: list[Sample] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def worker() -> None:
            while prompts:
                samples.append(await complete(session, url, shape, prompts.pop()))

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return Repetition(concurrency, samples, time.perf_counter() - started)


async def complete(
    session: aiohttp.ClientSession, url: str, shape: Shape, prompt: list[int]
) -> Sample:
    """Stream one completion of exactly `shape.output_tokens` tokens.

    Raises:
        RuntimeError: the server answered with anything but 200, or with too few tokens.
    """
    body: dict[str, Any] = {
        "model": shape.model,
        "prompt": prompt,
        "max_tokens": shape.output_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    sent = time.perf_counter()
    first = last = 0.0
    tokens = 0
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{url}: {response.status} {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk = orjson.loads(line[6:])
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            if chunk.get("choices"):
                last = time.perf_counter()
                first = first or last
    if tokens != shape.output_tokens:
        raise RuntimeError(f"{url}: {tokens} tokens instead of {shape.output_tokens}")
    return Sample(first - sent, (last - first) / max(tokens - 1, 1), tokens)
