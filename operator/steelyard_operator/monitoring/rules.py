"""Recording rules and alerts, as a PrometheusRule. Data only.

An alert names what a user of the service feels, or what will be felt soon; each has a section of
docs/monitoring.md under its name.
"""

from dataclasses import dataclass
from typing import Any

RUNBOOK = "docs/monitoring.md#{}"


@dataclass(frozen=True, slots=True)
class Recording:
    """An expression that is kept as a series."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert, its patience in minutes, and its sentence."""

    name: str
    expression: str
    minutes: int
    severity: str
    summary: str


WHOSE = "{{ $labels.namespace }}/{{ $labels.service }}"

RECORDINGS = (
    Recording(
        "steelyard:service_latency_over_objective:ratio",
        "steelyard_operator_service_latency_seconds "
        "/ on (namespace, service, kind) group_left steelyard_operator_service_objective_seconds",
    ),
    Recording(
        "steelyard:service_server_errors:ratio5m",
        'sum by (namespace, service) (rate(steelyard_router:requests_total{code=~"5.."}[5m])) '
        "/ sum by (namespace, service) (rate(steelyard_router:requests_total[5m]))",
    ),
    Recording(
        "steelyard:kv_pull_failures:ratio10m",
        'sum by (namespace, service) (rate(steelyard:kv_pulls_total{result="failed"}[10m])) '
        "/ sum by (namespace, service) (rate(steelyard:kv_pulls_total[10m]))",
    ),
)

ALERTS = (
    Alert(
        "SteelyardObjectiveMissed",
        "steelyard:service_latency_over_objective:ratio > 1",
        15,
        "warning",
        WHOSE + ": {{ $labels.kind }} has been {{ $value | humanize }} times its objective for a "
        "quarter of an hour.",
    ),
    Alert(
        "SteelyardRequestsFail",
        "steelyard:service_server_errors:ratio5m > 0.01",
        5,
        "critical",
        WHOSE + ": {{ $value | humanizePercentage }} of the requests end in a server error.",
    ),
    Alert(
        "SteelyardNoWorker",
        "max by (namespace, service) (steelyard_router:worker_healthy) == 0",
        2,
        "critical",
        WHOSE + ": the router has no healthy worker.",
    ),
    Alert(
        "SteelyardCostAboveCeiling",
        'steelyard_operator_service_cost_per_million_tokens{kind="total"} '
        "> on (namespace, service) group_left "
        "steelyard_operator_service_cost_ceiling_per_million_tokens",
        30,
        "warning",
        WHOSE + ": a million tokens cost {{ $value | humanize }}, more than the ceiling.",
    ),
    Alert(
        "SteelyardKVCacheFull",
        "max by (namespace, service, role) (vllm:kv_cache_usage_perc) > 0.95",
        10,
        "warning",
        WHOSE + ": the KV cache of a {{ $labels.role }} worker has been full for 10 minutes; "
        "requests wait or are recomputed.",
    ),
    Alert(
        "SteelyardTransfersFail",
        "steelyard:kv_pull_failures:ratio10m > 0.05",
        10,
        "warning",
        WHOSE + ": {{ $value | humanizePercentage }} of the KV transfers fail; decode recomputes "
        "those prompts.",
    ),
    Alert(
        "SteelyardOperatorAway",
        "(sum(steelyard_operator_leader) or vector(0)) != 1",
        5,
        "critical",
        "{{ $value }} operators lead instead of one: nothing is repaired or balanced; what serves "
        "goes on serving.",
    ),
    Alert(
        "SteelyardPassesFail",
        'sum(rate(steelyard_operator_reconciles_total{result="failed"}[10m])) > 0.02',
        15,
        "warning",
        "The operator's passes have been failing for 15 minutes; its log says why.",
    ),
    Alert(
        "SteelyardFlipsRolledBack",
        'sum(increase(steelyard_operator_flips_total{result="rolled_back"}[1h])) >= 3',
        0,
        "warning",
        "{{ $value | humanize }} flips were rolled back in an hour; the services' events say why.",
    ),
)


def rule_groups() -> dict[str, Any]:
    """Return the groups as Prometheus reads them from a file."""
    return {
        "groups": [
            {
                "name": "steelyard-recordings",
                "rules": [{"record": one.name, "expr": one.expression} for one in RECORDINGS],
            },
            {"name": "steelyard-alerts", "rules": [_alert(one) for one in ALERTS]},
        ]
    }


def prometheus_rule() -> dict[str, Any]:
    """Return the rules as the Prometheus operator's resource."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "steelyard", "labels": {"app.kubernetes.io/name": "steelyard"}},
        "spec": rule_groups(),
    }


def _alert(alert: Alert) -> dict[str, Any]:
    patience = {"for": f"{alert.minutes}m"} if alert.minutes else {}
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **patience,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "runbook": RUNBOOK.format(alert.name.lower()),
        },
    }
