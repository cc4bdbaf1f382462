"""Who a scenario may strike: a worker that serves and has a request."""

from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from harness import kubectl
from harness.clusters import Cluster
from harness.kubectl import KubectlError
from harness.service import Service
from harness.traffic import Traffic
from harness.world import World


class OpenStreams:
    """Traffic that has its streams open."""

    def wait_open(self) -> None:
        """They are."""


class Workers:
    """Some pods; what asking one for its request does is the test's to say."""

    def __init__(self, ask: Callable[[str], None], *pods: dict[str, Any]) -> None:
        self.pods = {pod["metadata"]["name"]: pod for pod in pods}
        self.ask = ask
        self.asked: list[str] = []

    def workers(self, role: str) -> list[dict[str, Any]]:
        """Return them all; the role is the label selector's business."""
        assert role == "decode"
        return list(self.pods.values())

    def await_request(self, name: str) -> None:
        """Ask one."""
        self.asked.append(name)
        self.ask(name)


def pod(name: str, *, ready: bool = True, ending: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **({"deletionTimestamp": "now"} if ending else {})},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def victim(workers: Workers) -> str:
    service, traffic = cast(Service, workers), cast(Traffic, OpenStreams())
    return World(cast(Cluster, None), service, traffic, Random(1)).victim("decode")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait asks again at once."""
    monkeypatch.setattr(kubectl.time, "sleep", lambda seconds: None)


def test_a_worker_that_starts_or_ends_is_no_victim() -> None:
    """It would refuse the connection, as the third worker of an unfinished change does."""

    def ask(name: str) -> None:
        assert name == "serves"

    workers = Workers(ask, pod("starts", ready=False), pod("ends", ending=True), pod("serves"))

    assert [victim(workers) for _ in range(10)] == ["serves"] * 10


@pytest.mark.parametrize(
    "error", [AssertionError("no stream came"), KubectlError("connection refused")], ids=repr
)
def test_a_worker_that_ends_while_its_request_is_awaited_is_replaced(error: Exception) -> None:
    """It is drained, so no request comes, or its process is gone, so nothing listens."""

    def ask(name: str) -> None:
        if name == "ends":
            workers.pods = {"serves": pod("serves")}
            raise error

    workers = Workers(ask, pod("ends"))

    assert victim(workers) == "serves"
    assert workers.asked == ["ends", "serves"]


def test_a_worker_that_serves_and_gets_no_request_is_a_failure() -> None:
    """The router does not send it any."""

    def ask(name: str) -> None:
        raise AssertionError("no stream came")

    workers = Workers(ask, pod("idle"))

    with pytest.raises(AssertionError, match="no stream came"):
        victim(workers)
    assert workers.asked == ["idle"]
