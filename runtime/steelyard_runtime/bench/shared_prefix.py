"""What a salt for each API key costs: eight keys with one system prompt, each alone or in a group.

    python -m steelyard_runtime.bench.shared_prefix MEMBERSHIP_FILE MODEL

starts a router of its own for each case, on the workers of a running `steelyard up`.
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path
from statistics import mean, median
from typing import Any

import aiohttp

from steelyard_runtime.bench.report import table, write
from steelyard_runtime.testing.processes import Router

KEYS = 8
REQUESTS_PER_KEY = 3
SYSTEM_SENTENCES = 40  # some 600 tokens


def measure(members: list[dict[str, Any]], model: str) -> dict[str, dict[str, float]]:
    """Return the figures of both cases; each has a system prompt that no cache knows."""
    cases = {}
    for name, group in (("a salt for each key", {}), ("one cacheGroup", {"cacheGroup": "all"})):
        keys = [{"name": f"k{number}", "key": f"key-{number}", **group} for number in range(KEYS)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "keys.json"
            file.write_text(json.dumps({"keys": keys}))
            flags = ["--api-keys-file", str(file)]
            with Router(model, folder=Path(folder), flags=flags) as router:
                router.write_members(members)
                router.wait_ready()
                cases[name] = asyncio.run(_ask_all(router.url, model))
    return cases


async def _ask_all(url: str, model: str) -> dict[str, float]:
    system = f"This is prompt {uuid.uuid4()}. " + "Answer shortly and in plain words. " * 100
    system = system[: SYSTEM_SENTENCES * 70]
    cached = prompt_tokens = 0
    first_seconds: list[float] = []
    later_seconds: list[float] = []
    async with aiohttp.ClientSession() as session:
        for round_number in range(REQUESTS_PER_KEY):
            for number in range(KEYS):
                question = f"What is {round_number} and {number}?"
                messages = [
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ]
                body = {"model": model, "messages": messages, "max_tokens": 4, "stream": True}
                body["stream_options"] = {"include_usage": True}
                seconds, usage = await _ask(session, url, body, f"key-{number}")
                (later_seconds if round_number else first_seconds).append(seconds)
                cached += usage["prompt_tokens_details"]["cached_tokens"]
                prompt_tokens += usage["prompt_tokens"]
    return {
        "hit_rate": cached / prompt_tokens,
        "prompt_tokens_each": prompt_tokens / (KEYS * REQUESTS_PER_KEY),
        "first_request_of_a_key_mean_ttft_milliseconds": mean(first_seconds) * 1e3,
        "later_requests_median_ttft_milliseconds": median(later_seconds) * 1e3,
    }


async def _ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], key: str
) -> tuple[float, dict[str, Any]]:
    """Return the time to the first token, in seconds, and the usage."""
    headers = {"Authorization": f"Bearer {key}"}
    started = time.monotonic()
    first_seconds = 0.0
    usage: dict[str, Any] = {}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            choices = event["choices"]
            if not first_seconds and choices and choices[0]["delta"].get("content"):
                first_seconds = time.monotonic() - started
            usage = event.get("usage") or usage
    return first_seconds, usage


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("membership_file", type=Path)
    parser.add_argument("model")
    given = parser.parse_args()
    cases = measure(json.loads(given.membership_file.read_text())["workers"], given.model)
    print(table([{"case": name, **figures} for name, figures in cases.items()]))
    print(write("shared-prefix", {"keys": KEYS, "requests_per_key": REQUESTS_PER_KEY, **cases}))


if __name__ == "__main__":
    main()
