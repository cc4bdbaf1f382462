"""Time outside the forward pass: from the last prompt position's logits to the SSE bytes.

The worker stamps each chunk with the moment when its logits were ready (`steelyard.timing`,
CLOCK_MONOTONIC); the client stamps the bytes on arrival. Both are on one machine.
"""

import asyncio
import random
import time
from statistics import median
from urllib.parse import urlsplit

import orjson

from steelyard_runtime.bench.load import TOKEN_IDS, percentile

PROMPT_TOKENS = 256
OUTPUT_TOKENS = 4
_MARK = b'"logits_at_ns":'


async def outside_forward(url: str, model: str, rounds: int) -> dict[str, float]:
    """Return p50 and p95 over `rounds` requests, one at a time, 256-token prompts."""
    generator = random.Random(7)
    waits = []
    for _ in range(rounds):
        prompt = [generator.choice(TOKEN_IDS) for _ in range(PROMPT_TOKENS)]
        waits.append(await _first_token_wait_seconds(url, model, prompt) * 1e3)
    return {
        "requests": rounds,
        "p50_milliseconds": median(waits),
        "p95_milliseconds": percentile(waits, 95),
    }


async def _first_token_wait_seconds(url: str, model: str, prompt: list[int]) -> float:
    """Send one request on a connection of its own; return logits-to-bytes of its first token."""
    parts = urlsplit(url)
    body = orjson.dumps(
        {
            "model": model,
            "prompt": prompt,
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "steelyard": {"timing": True},
        }
    )
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(head.encode() + body)
        received = b""
        wait_seconds = None
        while data := await reader.read(1 << 16):
            arrived_ns = time.monotonic_ns()
            received += data
            place = received.find(_MARK)
            if wait_seconds is None and place >= 0:
                digits = received[place + len(_MARK) :].split(b"}", 1)[0]
                wait_seconds = (arrived_ns - int(digits)) * 1e-9
        if wait_seconds is None:
            raise RuntimeError(f"{url}: no time stamp in the answer: {received[:500]!r}")
        return wait_seconds
    finally:
        writer.close()
        await writer.wait_closed()
