"""What is kept of a scenario that failed: logs, events, and what the objects said."""

import json
from pathlib import Path

from harness.kubectl import Kubectl, KubectlError

LISTED = "inferenceservices.steelyard.dev,pods,deployments,services,poddisruptionbudgets,leases"


def keep(kubectl: Kubectl, operator: Kubectl, folder: Path, driver_log: str) -> None:
    """Write everything that tells why into a folder; what cannot be had is said there.

    Args:
        kubectl: of the service's namespace.
        operator: of the operator's; its part is a folder in the folder.
        folder: where to.
        driver_log: what the traffic said.
    """
    _keep(kubectl, folder, driver_log)
    _keep(operator, folder / "operator", "")


def _keep(kubectl: Kubectl, folder: Path, driver_log: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "driver.log").write_text(driver_log)
    for name, arguments in {
        "objects.yaml": ("get", LISTED, "--output", "yaml"),
        "pods.txt": ("get", "pods", "--output", "wide"),
        "events.txt": ("get", "events", "--sort-by", ".lastTimestamp"),
        "nodes.txt": ("describe", "nodes"),
        "endpoints.yaml": ("get", "endpointslices", "--output", "yaml"),
    }.items():
        (folder / name).write_text(_attempt(kubectl, *arguments))
    for pod in _pods(kubectl):
        for suffix, flags in (("", ()), (".previous", ("--previous",))):
            text = _attempt(kubectl, "logs", pod, "--all-containers", "--timestamps", *flags)
            if not (suffix and text.startswith("not to be had")):
                (folder / f"{pod}{suffix}.log").write_text(text)


def _pods(kubectl: Kubectl) -> list[str]:
    try:
        items = json.loads(kubectl("get", "pods", "--output", "json"))["items"]
    except KubectlError:
        return []
    return [item["metadata"]["name"] for item in items]


def _attempt(kubectl: Kubectl, *arguments: str) -> str:
    try:
        return kubectl(*arguments)
    except KubectlError as error:
        return f"not to be had: {error}\n"
