"""When a status is written: at once, later, or not at all."""

from typing import Any

import pytest

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.reporting import Reporting
from steelyard_operator.kube.services import Services

pytestmark = pytest.mark.anyio

RAW = {"metadata": {"name": "demo", "namespace": "ns", "uid": "u", "resourceVersion": "1"}}


def status(ready: str = "True", message: str = "", in_flight: int = 0) -> dict[str, Any]:
    """A status with what changes at different speeds."""
    return {
        "conditions": [{"type": "Ready", "status": ready, "message": message}],
        "decode": {"inFlight": in_flight, "replicas": 1},
    }


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
async def written(server: Any, client: Client) -> tuple[Reporting, Clock]:
    """A status that was written a moment ago."""
    clock = Clock()
    reporting = Reporting(client, Services("", lambda _: None), clock=clock)
    server.says({**RAW, "status": status()})
    assert await reporting.write(RAW, {}, status()) is None
    server.asked.clear()
    return reporting, clock


async def test_what_is_there_is_not_written_again(
    server: Any, written: tuple[Reporting, Clock]
) -> None:
    """An idle service costs no request."""
    assert await written[0].write(RAW, status(), status()) is None
    assert server.asked == []


async def test_a_change_of_meaning_is_written_at_once(
    server: Any, written: tuple[Reporting, Clock]
) -> None:
    """It goes through the subresource, and only to the resource that was meant."""
    server.says({**RAW, "status": status("False")})

    assert await written[0].write(RAW, status(), status("False")) is None
    assert server.asked[0][1].endswith("/inferenceservices/demo/status")
    assert server.bodies[-1][0] == {"op": "test", "path": "/metadata/uid", "value": "u"}


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [(status(in_flight=4), 30.0), (status(message="40 percent"), 5.0)],
    ids=["counts", "words"],
)
async def test_small_changes_wait(
    server: Any, written: tuple[Reporting, Clock], wanted: dict[str, Any], seconds: float
) -> None:
    """What changes all the time is written once in a while, and then it is."""
    reporting, clock = written
    assert await reporting.write(RAW, status(), wanted) == seconds
    clock.now += seconds
    server.says({**RAW, "status": wanted})

    assert await reporting.write(RAW, status(), wanted) is None
    assert len(server.asked) == 1
