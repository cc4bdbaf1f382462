"""The panels of the dashboard: what each shows, in PromQL. Data only.

`$namespace` and `$service` choose services, `$__rate_interval` is Grafana's. A sum over series that
exist only after the first event ends in `or vector(0)`: nothing happened is an answer as well.
"""

from dataclasses import dataclass

SERVICE = '{namespace=~"$namespace",service=~"$service"}'
INTERVAL = "$__rate_interval"
OR_NOTHING = " or vector(0)"
OPERATOR, ROUTER = "steelyard_operator", "steelyard_router"


@dataclass(frozen=True, slots=True)
class Line:
    """One expression of a panel."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; the unit is Grafana's name of it."""

    title: str
    about: str
    unit: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side under a heading."""

    title: str
    panels: tuple[Panel, ...]


def _panel(title: str, about: str, unit: str, *lines: tuple[str, str]) -> Panel:
    return Panel(title, about, unit, tuple(Line(*line) for line in lines))


def _rate(name: str, by: str, chosen: str = SERVICE) -> str:
    return f"sum by ({by}) (rate({name}{chosen}[{INTERVAL}]))"


def _increase(name: str, by: str) -> str:
    return f"sum by ({by}) (increase({name}{SERVICE}[{INTERVAL}]))"


def _quantiles(name: str, *percents: int) -> tuple[tuple[str, str], ...]:
    rate = f"sum by (le) (rate({name}_bucket{SERVICE}[{INTERVAL}]))"
    return tuple(
        (f"histogram_quantile({percent / 100}, {rate})", f"p{percent}") for percent in percents
    )


def _against_objective(kind: str) -> Panel:
    chosen = SERVICE.replace("}", f',kind="{kind}"}}')
    return _panel(
        f"{kind.upper()} against its objective",
        "What the objectives' share of streams kept in the last ten minutes.",
        "s",
        (f"{OPERATOR}_service_latency_seconds{chosen}", "{{service}} measured"),
        (f"{OPERATOR}_service_objective_seconds{chosen}", "{{service}} objective"),
    )


_OBJECTIVES = (
    _against_objective("ttft"),
    _against_objective("tpot"),
    _panel(
        "TTFT at the router",
        "From a request's arrival to its first token.",
        "s",
        *_quantiles(f"{ROUTER}:ttft_seconds", 50, 95, 99),
    ),
    _panel(
        "Requests",
        "Answered requests by status; 499 is a client that went away.",
        "reqps",
        (_rate(f"{ROUTER}:requests_total", "code"), "{{code}}"),
    ),
)

_SPLIT = (
    _panel(
        "Workers by role",
        "Workers that are paid for; those that drain count for decode.",
        "short",
        (
            f"sum by (service, role) ({OPERATOR}_service_workers{SERVICE})",
            "{{service}} {{role}}",
        ),
    ),
    _panel(
        "Flips",
        "Workers that changed their role in their pod in the last hour, all services.",
        "short",
        (f"sum by (result) (increase({OPERATOR}_flips_total[1h]))" + OR_NOTHING, "{{result}}"),
    ),
    _panel(
        "Steps of a flip",
        "95th percentile of each step over the last hour.",
        "s",
        (
            "histogram_quantile(0.95, sum by (le, phase) "
            f"(increase({OPERATOR}_flip_seconds_bucket[1h])))" + OR_NOTHING,
            "{{phase}}",
        ),
    ),
    _panel(
        "Decisions",
        "Ticks of the balance by what came of them, all services.",
        "short",
        (_rate(f"{OPERATOR}_ticks_total", "reason", ""), "{{reason}}"),
    ),
)

_KV_CACHE = (
    _panel(
        "Use",
        "Share of KV blocks in use, the fullest worker of each role.",
        "percentunit",
        (f"max by (role) (vllm:kv_cache_usage_perc{SERVICE})", "{{role}}"),
    ),
    _panel(
        "Blocks",
        "KV blocks by state.",
        "short",
        (f"sum by (role, state) (steelyard:blocks{SERVICE})", "{{role}} {{state}}"),
    ),
    _panel(
        "Sequences",
        "In the batch, and waiting for it.",
        "short",
        (f"sum by (role) (vllm:num_requests_running{SERVICE})", "{{role}} running"),
        (f"sum by (role) (vllm:num_requests_waiting{SERVICE})", "{{role}} waiting"),
    ),
    _panel(
        "Prefix cache",
        "Share of prompt tokens that were found in a cache; 0 where none were looked up.",
        "percentunit",
        (
            f"{_rate('vllm:prefix_cache_hits_total', 'role')} / "
            f"({_rate('vllm:prefix_cache_queries_total', 'role')} > 0)" + OR_NOTHING,
            "{{role}}",
        ),
    ),
)

_KV_TRANSFER = (
    _panel(
        "Bytes",
        "Pulled from prefill workers.",
        "Bps",
        (f"sum(rate(steelyard:kv_pull_bytes_total{SERVICE}[{INTERVAL}]))", "pulled"),
    ),
    _panel(
        "Time of a pull",
        "From its start to the last block.",
        "s",
        *_quantiles("steelyard:kv_pull_seconds", 50, 95),
    ),
    _panel(
        "Where prompts are prefilled",
        "The router's decisions, and why.",
        "reqps",
        (_rate(f"{ROUTER}:prefill_decisions_total", "decision"), "{{decision}}"),
    ),
    _panel(
        "What failed and was made good",
        "Failed pulls, requests without their prefill, streams that went on elsewhere.",
        "short",
        (
            _increase("steelyard:kv_pull_failures_total", "reason") + OR_NOTHING,
            "pull: {{reason}}",
        ),
        (
            _increase(f"{ROUTER}:prefill_fallbacks_total", "reason") + OR_NOTHING,
            "fallback: {{reason}}",
        ),
        (_increase(f"{ROUTER}:replays_total", "result"), "replay: {{result}}"),
    ),
)

_COST = (
    _panel(
        "Cost per million tokens",
        "Of the last ten minutes, in the currency of the resource, and its ceiling.",
        "short",
        (f"{OPERATOR}_service_cost_per_million_tokens{SERVICE}", "{{service}} {{kind}}"),
        (
            f"{OPERATOR}_service_cost_ceiling_per_million_tokens{SERVICE}",
            "{{service}} ceiling",
        ),
    ),
    _panel(
        "Paid workers",
        "Worker-seconds of each second, by role.",
        "short",
        (
            _rate(f"{OPERATOR}_service_worker_seconds_total", "service, role"),
            "{{service}} {{role}}",
        ),
    ),
    _panel(
        "Tokens",
        "Prompt tokens and generated tokens a second.",
        "short",
        (_rate("vllm:prompt_tokens_total", "role"), "{{role}} prompt"),
        (_rate("vllm:generation_tokens_total", "role"), "{{role}} generated"),
    ),
)

_OPERATOR = (
    _panel(
        "Passes",
        "Over one service each, by result.",
        "short",
        (_rate(f"{OPERATOR}_reconciles_total", "result", ""), "{{result}}"),
    ),
    _panel(
        "Requests to the API server",
        "By verb.",
        "reqps",
        (_rate(f"{OPERATOR}_api_requests_total", "verb", ""), "{{verb}}"),
    ),
    _panel(
        "Queue",
        "Services that wait for a pass, and leaders: there should be one.",
        "short",
        (f"sum({OPERATOR}_queue_depth)", "waiting"),
        (f"sum({OPERATOR}_leader)", "leaders"),
    ),
)

ROWS = (
    Row("Objectives", _OBJECTIVES),
    Row("Split", _SPLIT),
    Row("KV cache", _KV_CACHE),
    Row("KV transfer", _KV_TRANSFER),
    Row("Cost", _COST),
    Row("Operator", _OPERATOR),
)
