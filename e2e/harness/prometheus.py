"""A real Prometheus beside the cluster, which finds and reads pods as our PodMonitors say.

It runs where the tests run and reaches the pods through the API server (`kubectl proxy`), so the
cluster needs no image of it. What the Prometheus operator makes of a PodMonitor is made here: the
same labels select pods, and the same labels are on the series. Debian's Prometheus does not find
pods by itself; it gets a file with the labels that its own discovery would give them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.kubectl import Kubectl
from steelyard_operator.monitoring.scraping import pod_monitors
from steelyard_operator.testing.prometheus import Prometheus, prometheus

SCRAPE = "2s"
META = "__meta_kubernetes_"
SNAKE = re.compile(r"(?<!^)(?=[A-Z])")


@contextmanager
def prometheus_beside(
    kubectl: Kubectl, program: str, folder: Path, *, others: Sequence[Kubectl] = ()
) -> Iterator[Prometheus]:
    """A Prometheus that reads every pod of some namespaces that a PodMonitor selects now.

    Args:
        kubectl: of the cluster and a namespace.
        program: its path.
        folder: for its data, its configuration and its log.
        others: of more namespaces.
    """
    with _proxy(kubectl) as address:
        pods = folder / "pods.json"
        there = [pod for each in (kubectl, *others) for pod in each.items("pods")]
        pods.write_text(json.dumps(discovered(there)))
        jobs = [job(monitor, address, pods) for monitor in pod_monitors()]
        configuration = {"global": {"scrape_interval": SCRAPE}, "scrape_configs": jobs}
        with prometheus(program, configuration, folder) as found:
            yield found


def discovered(pods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every port of these pods, labelled as Prometheus' discovery labels it."""
    found = []
    for pod in pods:
        meta = pod["metadata"]
        labels = {f"{META}namespace": meta["namespace"], f"{META}pod_name": meta["name"]}
        for label, value in meta.get("labels", {}).items():
            labels[f"{META}pod_label_{_spelled(label)}"] = value
            labels[f"{META}pod_labelpresent_{_spelled(label)}"] = "true"
        ports = [port for each in pod["spec"]["containers"] for port in each.get("ports", ())]
        for port in ports:
            more = {
                f"{META}pod_container_port_name": port.get("name", ""),
                f"{META}pod_container_port_number": str(port["containerPort"]),
            }
            target = f"{meta['name']}:{port['containerPort']}"
            found.append({"targets": [target], "labels": {**labels, **more}})
    return found


def job(monitor: Mapping[str, Any], proxy: str, pods: Path) -> dict[str, Any]:
    """Return the job that reads what a PodMonitor selects.

    Args:
        monitor: with one endpoint.
        proxy: host and port through which the API server is reached.
        pods: the file with their ports.
    """
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    rules = [
        *_selected(spec["selector"]),
        {
            "source_labels": [f"{META}pod_container_port_name"],
            "regex": endpoint["port"],
            "action": "keep",
        },
        {"source_labels": [f"{META}namespace"], "target_label": "namespace"},
        {"source_labels": [f"{META}pod_name"], "target_label": "pod"},
        *(
            {_snake(key): value for key, value in rule.items()}
            for rule in endpoint.get("relabelings", ())
        ),
        {
            "source_labels": [f"{META}{part}" for part in ("namespace", "pod_name")]
            + [f"{META}pod_container_port_number"],
            "regex": "(.+);(.+);(.+)",
            "target_label": "__metrics_path__",
            "replacement": f"/api/v1/namespaces/$1/pods/$2:$3/proxy{endpoint['path']}",
        },
        {"target_label": "__address__", "replacement": proxy},
    ]
    return {
        "job_name": monitor["metadata"]["name"],
        "honor_labels": endpoint.get("honorLabels", False),
        "file_sd_configs": [{"files": [str(pods)]}],
        "relabel_configs": rules,
    }


def _selected(selector: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for label, value in selector.get("matchLabels", {}).items():
        source = [f"{META}pod_label_{_spelled(label)}"]
        yield {"source_labels": source, "regex": re.escape(value), "action": "keep"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "Exists", expression
        source = [f"{META}pod_labelpresent_{_spelled(expression['key'])}"]
        yield {"source_labels": source, "regex": "true", "action": "keep"}


def _spelled(label: str) -> str:
    return re.sub(r"\W", "_", label)


def _snake(name: str) -> str:
    return SNAKE.sub("_", name).lower()


@contextmanager
def _proxy(kubectl: Kubectl) -> Iterator[str]:
    """Yield host and port at which `kubectl proxy` answers."""
    with kubectl.running("proxy", "--port", "0") as output:
        line = output.readline()
        assert line.startswith("Starting to serve on "), line
        yield line.rpartition(" ")[2].strip()
