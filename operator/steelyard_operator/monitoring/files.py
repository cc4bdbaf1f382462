"""The files of `manifests/monitoring/`, as texts by name. Pure."""

from typing import Any

import yaml

from steelyard_operator.monitoring.dashboard import config_map
from steelyard_operator.monitoring.rules import prometheus_rule
from steelyard_operator.monitoring.scraping import pod_monitors
from steelyard_operator.plain_yaml import PlainDumper

HEADER = "# Made by `make monitoring`, never edited.\n"


def files() -> dict[str, str]:
    """Return every file."""
    documents: dict[str, tuple[dict[str, Any], ...]] = {
        "dashboard.yaml": (config_map(),),
        "podmonitors.yaml": pod_monitors(),
        "prometheusrule.yaml": (prometheus_rule(),),
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(documents),
    }
    return {
        name: HEADER + yaml.dump_all(found, Dumper=PlainDumper, sort_keys=False, width=120)
        for name, found in {**documents, "kustomization.yaml": (kustomization,)}.items()
    }
