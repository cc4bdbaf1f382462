"""`steelyard dashboard` on a real API server: the page shows a service that an operator made."""

import json
import os
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.cli import main
from steelyard_operator.testing.cluster import Cluster, environment, eventually, operating
from steelyard_operator.testing.life import life

KUBECTL = """#!/bin/sh
echo "Forwarding from 127.0.0.1:9 -> 8080"
exec sleep 600
"""


@pytest.fixture
def variables(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """The environment of a user of the cluster; its kubectl forwards to nothing."""
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = environment(cluster.api, tmp_path, {})
    return {**found, "PATH": f"{program.parent}:{os.environ['PATH']}"}


def facts(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}facts", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_service_is_shown_with_its_workers(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path, variables: dict[str, str]
) -> None:
    """Roles and phases are those of the pods, and a new worker is an event."""
    with life(cluster, 4) as found, operating(cluster.api, tmp_path, **settings):
        cluster.apply(capacity={"maxAccelerators": 4})
        eventually(lambda: found.steady(1, 1), "two workers")
        command = [sys.executable, "-m", "steelyard_operator.cli", "dashboard", "demo"]
        options = ["--namespace", cluster.namespace, "--port", "0"]
        with subprocess.Popen(
            [*command, *options], env=variables, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().split()[-1]
                shown = facts(url)
                roles = sorted((one["role"], one["phase"]) for one in shown["workers"])
                assert roles == [("decode", "ready"), ("prefill", "ready")]
                assert shown["service"] == "demo"

                cluster.edit({"spec": {"decode": {"replicas": 2}}})
                eventually(lambda: found.steady(1, 2), "three workers")

                def told() -> bool:
                    said = [event["text"] for event in facts(url)["events"]]
                    return any(text.endswith("is there (decode)") for text in said)

                eventually(told, "an event of the new worker")  # facts may be half a second old
            finally:
                process.terminate()


def test_a_missing_service_is_one_sentence(
    cluster: Cluster,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before a page is served."""
    for name in ("KUBECONFIG", "PATH"):
        monkeypatch.setenv(name, variables[name])

    assert main(["dashboard", "nobody", "--namespace", cluster.namespace, "--port", "0"]) == 2
    assert capsys.readouterr().err == (
        f"steelyard: there is no InferenceService 'nobody' in namespace '{cluster.namespace}'\n"
    )
