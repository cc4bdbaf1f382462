"""When things happened to one request: what the histograms and its log line are made of.

Times are nanoseconds of CLOCK_MONOTONIC, which the engine process reads as well.
"""

from collections.abc import Callable
from typing import Any

from steelyard_runtime.ipc.messages import Output
from steelyard_runtime.server.metrics import WorkerMetrics

_SECONDS = 1e-9


class RequestTiming:
    """Clock readings of one request and, by choice index, of its sequences."""

    __slots__ = (
        "_clock_ns",
        "_counts",
        "_firsts",
        "_inter_token",
        "_lasts",
        "_metrics",
        "_outside",
        "_scheduled_at_ns",
        "arrived_at_ns",
        "first_token_at_ns",
    )

    def __init__(self, metrics: WorkerMetrics, clock_ns: Callable[[], int]) -> None:
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._inter_token = metrics.histogram("vllm:inter_token_latency_seconds")
        self._outside = metrics.histogram("steelyard:outside_forward_seconds")
        self._firsts: dict[int, int] = {}
        self._lasts: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._scheduled_at_ns = 0
        self.arrived_at_ns = clock_ns()
        self.first_token_at_ns = 0

    def admitted(self, num_prompt_tokens: int, n: int, max_tokens: int) -> None:
        """Note a request that goes to the engine."""
        observe = self._metrics.observe
        observe("vllm:request_prompt_tokens", num_prompt_tokens)
        observe("vllm:request_params_n", n)
        observe("vllm:request_params_max_tokens", max_tokens)
        self._metrics.count("vllm:prompt_tokens", num_prompt_tokens)

    def started(self, output: Output) -> None:
        """Note the first output of a prompt's first choice."""
        if not self._scheduled_at_ns and output.scheduled_at_ns:
            self._scheduled_at_ns = output.scheduled_at_ns
            self._observe(
                "vllm:request_queue_time_seconds", self.arrived_at_ns, self._scheduled_at_ns
            )
        self._metrics.count("vllm:prompt_tokens_cached", output.num_cached_tokens)
        self._metrics.count("vllm:external_prefix_cache_hits", output.num_remote_tokens)

    def tokens(self, index: int, count: int, logits_at_ns: int) -> None:
        """Note new tokens of a choice."""
        now = self._clock_ns()
        last = self._lasts.get(index)
        if last is not None:
            self._inter_token.observe((now - last) * _SECONDS / count)
        else:
            self._firsts[index] = now
            if not self.first_token_at_ns:
                self.first_token_at_ns = now
                self._observe("vllm:time_to_first_token_seconds", self.arrived_at_ns, now)
                if self._scheduled_at_ns:
                    self._observe("vllm:request_prefill_time_seconds", self._scheduled_at_ns, now)
        self._lasts[index] = now
        self._counts[index] = self._counts.get(index, 0) + count
        if logits_at_ns:
            self._outside.observe((now - logits_at_ns) * _SECONDS)

    def finished(self, index: int, reason: str) -> None:
        """Note the end of a choice."""
        metrics = self._metrics
        metrics.count("vllm:request_success", finished_reason=reason)
        count = self._counts.get(index, 0)
        metrics.count("vllm:generation_tokens", count)
        if reason not in ("stop", "length"):
            return
        metrics.observe("vllm:request_generation_tokens", count)
        self._observe("vllm:e2e_request_latency_seconds", self.arrived_at_ns, self._clock_ns())
        first, last = self._firsts.get(index), self._lasts.get(index)
        if first is None or last is None:
            return
        self._observe("vllm:request_decode_time_seconds", first, last)
        if self._scheduled_at_ns:
            self._observe("vllm:request_inference_time_seconds", self._scheduled_at_ns, last)
        if count > 1:
            metrics.observe(
                "vllm:request_time_per_output_token_seconds",
                (last - first) * _SECONDS / (count - 1),
            )

    def fields(self) -> dict[str, Any]:
        """Return what the request's log line says of time."""
        if not self.first_token_at_ns:
            return {}
        return {"ttft_seconds": round((self.first_token_at_ns - self.arrived_at_ns) * _SECONDS, 6)}

    def _observe(self, name: str, since_ns: int, until_ns: int) -> None:
        self._metrics.observe(name, max(until_ns - since_ns, 0) * _SECONDS)
