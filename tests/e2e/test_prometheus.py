"""What the e2e run's Prometheus is told to read is what our PodMonitors select."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.prometheus import discovered, job
from steelyard_operator.monitoring.scraping import pod_monitors

POD = {
    "metadata": {
        "name": "demo-0",
        "namespace": "ns",
        "labels": {"steelyard.dev/service": "demo", "app.kubernetes.io/component": "worker"},
    },
    "spec": {
        "containers": [
            {"ports": [{"name": "http", "containerPort": 8000}, {"containerPort": 8001}]},
            {},
        ]
    },
}


def test_prometheus_takes_the_jobs(tmp_path: Path) -> None:
    """Promtool finds nothing wrong with them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    jobs = [job(monitor, "127.0.0.1:8001", tmp_path / "pods.json") for monitor in pod_monitors()]
    (tmp_path / "pods.json").write_text(json.dumps(discovered([POD])))
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump({"scrape_configs": jobs}))

    done = subprocess.run(
        [promtool, "check", "config", str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_labels_are_copied_as_the_monitor_says() -> None:
    """Selectors keep, relabelings copy, and each pod is read through the API server."""
    file = Path("pods.json")
    services, operator = (job(each, "127.0.0.1:8001", file) for each in pod_monitors())

    kept = [rule for rule in services["relabel_configs"] if rule.get("action") == "keep"]
    assert [rule["source_labels"] for rule in kept] == [
        ["__meta_kubernetes_pod_labelpresent_steelyard_dev_service"],
        ["__meta_kubernetes_pod_container_port_name"],
    ]
    targets = [rule["target_label"] for rule in services["relabel_configs"][2:]]
    assert targets == [
        "namespace",
        "pod",
        "service",
        "component",
        "__metrics_path__",
        "__address__",
    ]
    assert (services["honor_labels"], operator["honor_labels"]) == (False, True)


def test_every_port_of_a_pod_is_a_target() -> None:
    """With the pod's labels, spelled as Prometheus spells them."""
    http, other = discovered([POD])

    assert http["targets"] == ["demo-0:8000"]
    assert http["labels"] == {
        "__meta_kubernetes_namespace": "ns",
        "__meta_kubernetes_pod_name": "demo-0",
        "__meta_kubernetes_pod_label_steelyard_dev_service": "demo",
        "__meta_kubernetes_pod_labelpresent_steelyard_dev_service": "true",
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": "worker",
        "__meta_kubernetes_pod_labelpresent_app_kubernetes_io_component": "true",
        "__meta_kubernetes_pod_container_port_name": "http",
        "__meta_kubernetes_pod_container_port_number": "8000",
    }
    assert other["labels"]["__meta_kubernetes_pod_container_port_name"] == ""
