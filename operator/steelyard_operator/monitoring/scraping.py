"""What Prometheus reads: PodMonitors of the services' pods and of the operator. Data only."""

from typing import Any

from steelyard_operator.api.names import COMPONENT_LABEL, SERVICE_LABEL

INTERVAL = "15s"
OPERATOR_NAME = "steelyard-operator"


def pod_monitors() -> tuple[dict[str, Any], ...]:
    """Return both PodMonitors; they look into every namespace that their Prometheus may read."""
    services = _monitor(
        "steelyard-services",
        {"matchExpressions": [{"key": SERVICE_LABEL, "operator": "Exists"}]},
        {
            "port": "http",
            "relabelings": [_label(SERVICE_LABEL, "service"), _label(COMPONENT_LABEL, "component")],
        },
    )
    # Its series name services of their own, which are not where it runs.
    operator = _monitor(
        "steelyard-operator",
        {"matchLabels": {"app.kubernetes.io/name": OPERATOR_NAME}},
        {"port": "metrics", "honorLabels": True},
    )
    return services, operator


def _monitor(name: str, selector: dict[str, Any], endpoint: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "steelyard"}},
        "spec": {
            "namespaceSelector": {"any": True},
            "selector": selector,
            "podMetricsEndpoints": [{"path": "/metrics", "interval": INTERVAL, **endpoint}],
        },
    }


def _label(label: str, target: str) -> dict[str, Any]:
    """Copy a pod's label to its series, under Prometheus' spelling of it."""
    spelled = "".join(letter if letter.isalnum() else "_" for letter in label)
    return {"sourceLabels": [f"__meta_kubernetes_pod_label_{spelled}"], "targetLabel": target}
