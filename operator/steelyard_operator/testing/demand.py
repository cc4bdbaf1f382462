"""Demand that a test makes up: step times of a worker, and a router that tells of requests."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from steelyard_operator.planning.balance.fit import DECODE, PREFILL, StepSums
from steelyard_operator.render.ports import ROUTER

# 1,000 prompt tokens a second; 10 ms and 1 ms for each sequence, of 100 tokens each.
PROMPTS = [(tokens, tokens / 1000) for tokens in (50.0, 100.0, 200.0, 400.0)] * 10
STEPS = [(float(n), 100.0 * n, 0.010 + 0.001 * n) for n in range(1, 31)] * 10


def step_sums(
    prompts: Sequence[tuple[float, float]] = PROMPTS,
    steps: Sequence[tuple[float, float, float]] = STEPS,
) -> StepSums:
    """Return the sums of steps: (tokens, seconds) and (sequences, tokens in the cache, seconds)."""
    return StepSums(
        (
            float(len(prompts)),
            sum(t for _, t in prompts),
            sum(x for x, _ in prompts),
            sum(x * x for x, _ in prompts),
            sum(x * t for x, t in prompts),
        ),
        (
            float(len(steps)),
            sum(t for *_, t in steps),
            sum(s for s, _, _ in steps),
            sum(k for _, k, _ in steps),
            sum(s * s for s, _, _ in steps),
            sum(k * k for _, k, _ in steps),
            sum(s * k for s, k, _ in steps),
            sum(s * t for s, _, t in steps),
            sum(k * t for _, k, t in steps),
        ),
        kv_tokens=100_000,
        max_sequences=64,
        prefill_step_tokens=256,
    )


def steps_document(sums: StepSums) -> dict[str, Any]:
    """Return the sums as a worker's `GET /state` has them."""
    return {
        "prefill": dict(zip(PREFILL, sums.prefill, strict=True)),
        "decode": dict(zip(DECODE, sums.decode, strict=True)),
        "kvTokens": sums.kv_tokens,
        "maxSequences": sums.max_sequences,
        "prefillStepTokens": sums.prefill_step_tokens,
    }


class Router:
    """A router's `GET /router/signals` on an address of its own."""

    def __init__(
        self, ip: str, id: str = "router", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id = id
        self.open: dict[str, int] = {"backlogTokens": 0, "backlog": 0, "decoding": 0}
        self.readings = 0
        self._load = (0.0, 0, 0)
        self._clock = clock
        self._counted_at = clock()
        self._sums = [0.0] * 6
        self._lock = threading.Lock()
        router = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                content = json.dumps(router.document()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((ip, ROUTER), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def gets(self, requests_per_second: float, input_tokens: int, output_tokens: int) -> None:
        """Let requests arrive and end at this rate from now on."""
        with self._lock:
            self._count()
            self._load = (requests_per_second, input_tokens, output_tokens)

    def _count(self) -> None:
        now = self._clock()
        rate, prompt, answer = self._load
        count = rate * (now - self._counted_at)
        self._counted_at = now
        came = (
            count,
            count * prompt,
            count * prompt**2,
            count,
            count * answer,
            count * (prompt + answer),
        )
        self._sums = [a + b for a, b in zip(self._sums, came, strict=True)]

    def document(self) -> dict[str, Any]:
        """Return the body."""
        with self._lock:
            self.readings += 1
            self._count()
            names = (
                *("arrived", "inputTokens", "inputTokensSquared"),
                *("finished", "outputTokens", "contextTokens"),
            )
            sums = {name: int(value) for name, value in zip(names, self._sums, strict=True)}
            streams = sums["finished"]
            return {
                "id": self.id,
                **sums,
                **self.open,
                "ttft": [streams if place == 12 else 0 for place in range(40)],
                "tpot": [streams if place == 6 else 0 for place in range(40)],
            }

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
