"""Prometheus finds the pods of a service, and every panel of the dashboard has an answer."""

import tempfile
from functools import partial
from pathlib import Path

from harness.clusters import OPERATOR
from harness.kubectl import wait_for
from harness.prometheus import prometheus_beside
from harness.world import World
from steelyard_operator.monitoring.panels import ROWS

# A rate needs two readings, a latency of the operator's a tick and a stream that has ended.
PANEL_SECONDS = 120
# The panels of objectives and of the ceiling show only what a resource asks for.
ASKED = {
    "objectives": {"ttftMilliseconds": 60_000, "tpotMilliseconds": 5_000, "percentile": 95},
    "cost": {"ceilingPerMillionTokens": "1000000"},
}
NOT_ASKED = {"objectives": None, "cost": {"ceilingPerMillionTokens": None}}
EXPRESSIONS = [
    (f"{row.title}, {panel.title}", line.expression)
    for row in ROWS
    for panel in row.panels
    for line in panel.lines
]


def watch_with(program: str, world: World) -> None:
    """Ask every panel's expression of a Prometheus, its path given, while requests come."""
    service, kubectl = world.service, world.kubectl
    service.change(ASKED)
    try:
        world.traffic.wait_open()
        with (
            tempfile.TemporaryDirectory() as folder,
            prometheus_beside(kubectl, program, Path(folder), others=(world.operator,)) as found,
        ):
            pods = [*service.workers(), *service.routers()]
            pods += world.operator.items("pods", f"app.kubernetes.io/name={OPERATOR}")
            read = dict.fromkeys((pod["metadata"]["name"] for pod in pods), "")
            wait_for(
                "every pod of the service and of the operator is read",
                lambda: found.targets() == read,
                seconds=60,
            )
            for name, expression in EXPRESSIONS:
                wait_for(
                    f"an answer for {name}: {expression}",
                    partial(found.query, expression),
                    seconds=PANEL_SECONDS,
                )
    finally:
        service.change(NOT_ASKED)
    service.wait_steady()
