"""Dashboard, rules and alerts: every name exists, every alert fires on what it is for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from steelyard_operator.kube import service_metrics  # noqa: F401  # its series are in the registry
from steelyard_operator.kube.metrics import REGISTRY
from steelyard_operator.monitoring.files import files
from steelyard_operator.monitoring.panels import ROWS
from steelyard_operator.monitoring.rules import ALERTS, RECORDINGS, rule_groups
from steelyard_runtime.server.metric_names import COUNTERS, GAUGES, HISTOGRAMS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")
# `docs/contract.md` is held against the router's real page by tests/contract.
ROUTER_NAME = re.compile(r"`(steelyard_router:[a-z_]+?)(?:\{[^`]*\})?`")


def expressions() -> list[str]:
    shown = [line.expression for row in ROWS for panel in row.panels for line in panel.lines]
    return shown + [rule.expression for rule in (*RECORDINGS, *ALERTS)]


def known() -> set[str]:
    """Every series that a process of ours may have, and what the rules record."""
    bases = {family.name for family in REGISTRY.collect()}
    bases |= {*COUNTERS, *GAUGES, *HISTOGRAMS}
    bases |= {
        found.removesuffix("_total")
        for found in ROUTER_NAME.findall((ROOT / "docs/contract.md").read_text())
    }
    return {base + suffix for base in bases for suffix in SUFFIXES} | {
        recording.name for recording in RECORDINGS
    }


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_series_that_exist(expression: str) -> None:
    """A renamed metric is found here instead of as an empty panel."""
    bare = re.sub(r'"[^"]*"', "", expression)
    names = set(re.findall(r"\b(?:vllm|steelyard\w*)[:_][a-z0-9_:]+", bare))

    assert names, expression
    assert names <= known(), names - known()


def test_what_is_committed_is_what_the_code_makes() -> None:
    """`make monitoring` has been run."""
    folder = ROOT / "manifests/monitoring"

    assert {path.name: path.read_text() for path in folder.iterdir()} == files()


def test_every_alert_has_a_runbook_and_a_case() -> None:
    """A section in the documentation under its name, and a case that lets it fire."""
    headings = re.findall(r"^### (\w+)", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    cases = yaml.safe_load((HERE / "rules.yaml").read_text())["tests"]
    fired = {
        check["alertname"]
        for case in cases
        for check in case["alert_rule_test"]
        if check["exp_alerts"]
    }
    names = {alert.name for alert in ALERTS}

    assert set(headings) == names
    assert fired == names


def test_alerts_fire_on_what_they_are_for(tmp_path: Path) -> None:
    """Played by promtool: after their patience, with their sentence, and on nothing else."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    (tmp_path / "steelyard.yaml").write_text(yaml.safe_dump(rule_groups()))
    shutil.copy(HERE / "rules.yaml", tmp_path)

    played = subprocess.run(
        ["promtool", "test", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert played.returncode == 0, played.stdout + played.stderr
