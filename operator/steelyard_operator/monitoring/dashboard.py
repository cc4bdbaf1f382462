"""The dashboard as Grafana's JSON, in a ConfigMap that Grafana's sidecar finds by its label."""

import json
from typing import Any

from steelyard_operator.monitoring.panels import ROWS, Panel

UID = "steelyard"
COLUMNS, HEIGHT = 24, 7
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        panels.append(
            {
                "type": "row",
                "id": len(panels) + 1,
                "title": row.title,
                "gridPos": place,
                "panels": [],
            }
        )
        width = COLUMNS // len(row.panels)
        for number, panel in enumerate(row.panels):
            place = {"h": HEIGHT, "w": width, "x": number * width, "y": top + 1}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        top += 1 + HEIGHT
    return {
        "uid": UID,
        "title": "Steelyard",
        "description": "Objectives, split, KV and cost of each InferenceService.",
        "tags": ["steelyard"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def config_map() -> dict[str, Any]:
    """Return the ConfigMap with the dashboard."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "steelyard-dashboard", "labels": {"grafana_dashboard": "1"}},
        "data": {"steelyard.json": json.dumps(dashboard(), indent=2) + "\n"},
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": line.expression,
            "legendFormat": line.legend,
        }
        for number, line in enumerate(panel.lines)
    ]
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    workers = "steelyard_operator_service_workers"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _query("namespace", "Namespace", f"label_values({workers}, namespace)"),
        _query(
            "service", "Service", f'label_values({workers}{{namespace=~"$namespace"}}, service)'
        ),
    ]


def _query(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
