"""The client of `bench_flip.py`; runs in a pod, alone, from a mounted file.

    python load_driver.py open PLAN     send each arrival at its time; a line of JSON for each
    python load_driver.py closed PLAN   keep a number of requests in flight for a time; one line

Prompts are random token ids, so that no prefix cache helps. Nothing is tried again.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

TOKEN_IDS = range(20, 49_000)  # neither special nor missing in SmolLM2's vocabulary
SILENCE_SECONDS = 180.0


async def ask(
    session: aiohttp.ClientSession, plan: dict[str, Any], kind: dict[str, int], name: str
) -> dict[str, Any]:
    """Return what became of one request: seconds, or an error.

    Its prompt follows from `name` and the plan's `run`.
    """
    draw = random.Random(f"{plan['run']}/{name}")
    body = {
        "model": plan["model"],
        "prompt": [draw.choice(TOKEN_IDS) for _ in range(kind["input_tokens"])],
        "max_tokens": kind["output_tokens"],
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    begin = time.monotonic()
    first = last = 0.0
    ended, error = False, ""
    try:
        async with session.post(plan["url"] + "/v1/completions", json=body) as answer:
            if answer.status != 200:
                error = f"status {answer.status}: {(await answer.text())[:300]}"
            async for line in answer.content:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    ended = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    error = f"the stream brought an error: {event['error']}"
                if event.get("choices"):
                    last = time.monotonic()
                    first = first or last
        if not ended and not error:
            error = "the stream ended without [DONE]"
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    end = time.monotonic()
    if not first:
        error = error or "no token came"
        first = last = end
    steps = max(kind["output_tokens"] - 1, 1)
    return {
        "ttft_seconds": round(first - begin, 4),
        "tpot_seconds": round((last - first) / steps, 5),
        "seconds": round(end - begin, 4),
        "error": error,
    }


async def play_open(plan: dict[str, Any]) -> None:
    """Send each arrival at its time, whatever has been answered by then."""
    async with _session() as session:
        begin = time.monotonic()
        print(json.dumps({"began": time.time()}), flush=True)

        async def one(number: int, arrival: dict[str, Any]) -> None:
            await asyncio.sleep(max(0.0, begin + arrival["at"] - time.monotonic()))
            kind = plan["kinds"][arrival["kind"]]
            came = await ask(session, plan, kind, str(number))
            print(json.dumps({**arrival, **came}), flush=True)

        await asyncio.gather(*(one(n, arrival) for n, arrival in enumerate(plan["arrivals"])))


async def play_closed(plan: dict[str, Any]) -> None:
    """Keep `concurrency` requests in flight for `seconds`; the first third is warm-up."""
    kind = plan["kinds"][plan["kind"]]
    records: list[dict[str, Any]] = []
    begin = time.monotonic()
    async with _session() as session:

        async def worker(number: int) -> None:
            turn = 0
            while time.monotonic() - begin < plan["seconds"]:
                came = await ask(session, plan, kind, f"{number}/{turn}")
                records.append({"at": time.monotonic() - begin, **came})
                turn += 1

        await asyncio.gather(*(worker(number) for number in range(plan["concurrency"])))
    warm = plan["seconds"] / 3
    counted = [one for one in records if warm <= one["at"] <= plan["seconds"]]
    print(
        json.dumps(
            {
                "requests_per_second": len(counted) / (plan["seconds"] - warm),
                "ttft_p50_seconds": _middle([one["ttft_seconds"] for one in counted]),
                "tpot_p50_seconds": _middle([one["tpot_seconds"] for one in counted]),
                "errors": [one["error"] for one in records if one["error"]][:3],
            }
        ),
        flush=True,
    )


def _middle(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _session() -> aiohttp.ClientSession:
    # One connection a request: each goes through the Service anew, to whichever router that picks.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def main() -> None:
    """Run one of the two commands."""
    command, path = sys.argv[1:]
    plan = json.loads(Path(path).read_text())
    asyncio.run((play_open if command == "open" else play_closed)(plan))


if __name__ == "__main__":
    main()
