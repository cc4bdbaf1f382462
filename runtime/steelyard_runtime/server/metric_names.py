"""Which series a worker has: vLLM 0.32's names where it has one, `steelyard:` beyond them.

Counters stand without their `_total`. Buckets are vLLM's; the inter-token ones also resolve the
1 to 10 ms in which small models step.
"""

from dataclasses import dataclass

_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_INTER_TOKEN = (
    0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_SHORT = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
)  # fmt: skip
_TOKENS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0,
    20000.0, 50000.0, 100000.0,
)  # fmt: skip
_STEP_TOKENS = (
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
)  # fmt: skip
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class HistogramKind:
    """A histogram's help text and its upper bounds."""

    help: str
    bounds: tuple[float, ...]


GAUGES = {
    "vllm:num_requests_running": "Sequences in the batch.",
    "vllm:num_requests_waiting": "Sequences that wait for the batch.",
    "vllm:kv_cache_usage_perc": "Share of KV blocks in use; 1 is all of them.",
    "steelyard:num_requests_landing": "Sequences whose prompt's KV is being pulled.",
    "steelyard:blocks": "KV blocks by state.",
    "steelyard:grammars_waiting": "Sequences that wait for their grammar.",
    "steelyard:grammar_bytes": "Memory of the grammars of all sequences, by their trials.",
}

COUNTERS = {
    "vllm:prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
    "vllm:prefix_cache_hits": "Prompt tokens found in the prefix cache.",
    "vllm:num_preemptions": "Sequences that lost their blocks and were recomputed.",
    "vllm:prompt_tokens": "Prompt tokens of requests that started.",
    "vllm:prompt_tokens_cached": "Prompt tokens that came from the prefix cache.",
    "vllm:external_prefix_cache_hits": "Prompt tokens pulled from prefill workers.",
    "vllm:generation_tokens": "Tokens that were generated.",
    "vllm:request_success": "Sequences that ended, by reason.",
    "steelyard:kv_pulls": "Pulls by result.",
    "steelyard:kv_pull_failures": "Failed pulls by reason.",
    "steelyard:kv_pull_bytes": "Bytes pulled from prefill workers.",
    "steelyard:local_recomputes": "Prompts recomputed after a failed pull.",
    "steelyard:leases": "Leases of exported blocks that ended, by reason.",
    "steelyard:ignored_request_fields": "Unknown fields of request bodies.",
    "steelyard:sequence_errors": "Sequences that failed in the engine, by cause.",
    "steelyard:grammar_compiles": "New grammars by what became of them.",
    "steelyard:grammar_cache_hits": "Sequences whose grammar was compiled already.",
    "steelyard:busy_seconds": "Seconds that the engine spent in steps.",
}

HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": HistogramKind(
        "From a request's arrival to its first token.", _SECONDS
    ),
    "vllm:inter_token_latency_seconds": HistogramKind(
        "Between two tokens of a sequence.", _INTER_TOKEN
    ),
    "vllm:request_time_per_output_token_seconds": HistogramKind(
        "Mean time between the tokens of a sequence.", _INTER_TOKEN
    ),
    "vllm:e2e_request_latency_seconds": HistogramKind(
        "From a request's arrival to its end.", _REQUEST
    ),
    "vllm:request_queue_time_seconds": HistogramKind(
        "From a request's arrival to its first step.", _REQUEST
    ),
    "vllm:request_prefill_time_seconds": HistogramKind(
        "From a request's first step to its first token.", _REQUEST
    ),
    "vllm:request_decode_time_seconds": HistogramKind(
        "From a request's first token to its last.", _REQUEST
    ),
    "vllm:request_inference_time_seconds": HistogramKind(
        "From a request's first step to its last token.", _REQUEST
    ),
    "vllm:request_prompt_tokens": HistogramKind("Prompt tokens of a request.", _TOKENS),
    "vllm:request_generation_tokens": HistogramKind("Generated tokens of a sequence.", _TOKENS),
    "vllm:request_params_n": HistogramKind("The request's `n`.", _CHOICES),
    "vllm:request_params_max_tokens": HistogramKind("The request's `max_tokens`.", _TOKENS),
    "vllm:iteration_tokens_total": HistogramKind("Tokens of an engine step.", _STEP_TOKENS),
    "steelyard:step_seconds": HistogramKind("An engine step.", _SHORT),
    "steelyard:forward_seconds": HistogramKind("A forward pass.", _SHORT),
    "steelyard:outside_forward_seconds": HistogramKind(
        "From a token's logits to its text in the HTTP process.", _SHORT
    ),
    "steelyard:grammar_seconds": HistogramKind(
        "From a sequence's arrival to its compiled grammar or its refusal.", _SECONDS
    ),
    "steelyard:kv_pull_seconds": HistogramKind("A pull of a prompt's KV blocks.", _SHORT),
}
UNKNOWN_HISTOGRAM = HistogramKind("An engine observation.", _SHORT)
