"""A real Prometheus beside the cluster, which finds and reads pods as our PodMonitors say.

It runs where the tests run and reaches the pods through the API server (`kubectl proxy`), so the
cluster needs no image of it. What the Prometheus operator makes of a PodMonitor is made here: the
same labels select pods, and the same labels are on the series. Debian's Prometheus does not find
pods by itself; it gets a file with the labels that its own discovery would give them.
"""

import json
import os
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.kubectl import Kubectl, wait_for
from steelyard_operator.monitoring.scraping import pod_monitors

SCRAPE = "2s"
RATE_WINDOW = "30s"
META = "__meta_kubernetes_"
SNAKE = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def query(self, expression: str) -> list[Any]:
        """Return the series that a panel's expression gives, for all services."""
        chosen = expression.replace("$__rate_interval", RATE_WINDOW)
        chosen = re.sub(r"\$(namespace|service)", ".+", chosen)
        return list(self._get("query", query=chosen)["result"])

    def targets(self) -> dict[str, str]:
        """Return what is read, by pod: an empty text, or why it could not be read."""
        found = self._get("targets")["activeTargets"]
        return {one["labels"]["pod"]: str(one["lastError"]) for one in found}

    def _get(self, what: str, **asked: str) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            content: dict[str, Any] = json.load(answer)["data"]
        return content


@contextmanager
def prometheus(program: str, kubectl: Kubectl, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that reads every pod of the namespace that a PodMonitor selects now.

    Args:
        program: its path.
        kubectl: of the cluster and namespace.
        folder: for its data, its configuration and its log.
    """
    with _proxy(kubectl) as address:
        pods = folder / "pods.json"
        pods.write_text(json.dumps(discovered(kubectl.items("pods"))))
        jobs = [job(monitor, address, pods) for monitor in pod_monitors()]
        configuration = {"global": {"scrape_interval": SCRAPE}, "scrape_configs": jobs}
        path = folder / "prometheus.yaml"
        path.write_text(yaml.safe_dump(configuration))
        port = _free_port()
        log = folder / "prometheus.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(program, f"--config.file={path}"),
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=output,
                stderr=output,
            )
        found = Prometheus(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{found.url}/-/ready", timeout=5):
                    return True
            except OSError:
                return False

        try:
            wait_for("a Prometheus that is ready", ready, seconds=60)
            yield found
        finally:
            process.terminate()
            process.wait(30)


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
    command = ["kubectl", "--context", kubectl.context, "proxy", "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **kubectl.environment},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Starting to serve on "), line
            yield line.rpartition(" ")[2].strip()
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
