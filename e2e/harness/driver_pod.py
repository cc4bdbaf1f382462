"""A pod that runs one of our client scripts from a ConfigMap, with the router's image."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.kubectl import Kubectl, wait_for


@dataclass(frozen=True, slots=True)
class DriverPod:
    """What is run, and where."""

    name: str
    image: str
    script: Path
    node: str | None = None

    def create(self, kubectl: Kubectl, command: str, plan: Mapping[str, Any]) -> None:
        """Start the script with a command and a plan; returns when it runs."""
        kubectl("delete", "pod,configmap", self.name, "--ignore-not-found")
        files = {"driver.py": self.script.read_text(), "plan.json": json.dumps(plan)}
        meta = {"name": self.name}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": files}
        kubectl.apply(config, self._pod(command))

        def runs() -> bool:
            status = kubectl.read("pod", self.name)["status"]
            return status.get("phase") in ("Running", "Succeeded")

        wait_for("a running driver", runs, seconds=90)

    def _pod(self, command: str) -> dict[str, Any]:
        container = {
            "name": "driver",
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "/driver/driver.py", command, "/driver/plan.json"],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "driver", "mountPath": "/driver"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "driver", "configMap": {"name": self.name}},
                {"name": "tmp", "emptyDir": {}},
            ],
        }
        if self.node is not None:
            spec["nodeName"] = self.node
        labels = {"app.kubernetes.io/name": "steelyard-e2e-driver"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": labels},
            "spec": spec,
        }
