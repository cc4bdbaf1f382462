"""An exception in a pass over one service: told in its status, and no other's business."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from steelyard_operator.kube import queue as module
from steelyard_operator.kube.errors import Refused, Unreachable
from steelyard_operator.kube.failures import Failures
from steelyard_operator.kube.queue import WorkQueue
from steelyard_operator.reconcile import Reconciler

pytestmark = pytest.mark.anyio

BAD, GOOD = ("ns", "bad"), ("ns", "good")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = {"type": "Ready", "status": "True", "lastTransitionTime": NOW.isoformat(), "reason": "S"}


class Written:
    """The statuses that were written."""

    def __init__(self) -> None:
        self.statuses: list[dict[str, Any]] = []
        self.told: list[str] = []

    async def write(self, _: Any, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Note a status."""
        self.statuses.append(wanted)

    async def tell(self, _: Any, happening: Any) -> None:
        """Note an event."""
        self.told.append(happening.note)


def resource(uid: str) -> dict[str, Any]:
    """A resource that serves."""
    meta = {"name": uid, "namespace": "ns", "uid": uid, "generation": 3}
    return {"metadata": meta, "status": {"conditions": [READY], "observedGeneration": 3}}


@pytest.fixture
def written() -> Written:
    """Nothing was written yet."""
    return Written()


@pytest.fixture
def failures(written: Written) -> Failures:
    """What tells of failures."""
    there: Any = written
    return Failures(there, there, now=lambda: NOW)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (MemoryError(), "InternalError", "MemoryError: MemoryError"),
        (RecursionError("too deep"), "InternalError", "RecursionError: too deep"),
        (OverflowError("date\nout of range"), "InternalError", "OverflowError: date out of"),
        (ValueError("x" * 100_000), "InternalError", "ValueError: xxx"),
        (Refused("create Service: port is taken", 422), "RefusedByApiServer", "port is taken"),
    ],
)
async def test_a_failed_pass_is_told(
    failures: Failures, written: Written, error: Exception, reason: str, words: str
) -> None:
    """Reconciling says what went wrong; what holds besides stays as it is."""
    await failures.tell_failure(resource("bad"), error)

    (status,) = written.statuses
    conditions = {each["type"]: each for each in status["conditions"]}
    assert conditions["Ready"]["status"] == "True"
    assert (conditions["Reconciling"]["status"], conditions["Reconciling"]["reason"]) == (
        "True",
        reason,
    )
    assert words in conditions["Reconciling"]["message"]
    assert len(conditions["Reconciling"]["message"]) < 600


async def test_the_same_failure_is_told_once(failures: Failures, written: Written) -> None:
    """It is tried again for ever, and the API server is not written to each time."""
    raw = resource("bad")
    await failures.tell_failure(raw, MemoryError())
    await failures.tell_failure({**raw, "status": written.statuses[0]}, MemoryError())

    assert len(written.statuses) == 1


async def test_an_api_server_that_is_away_is_not_told_of(
    failures: Failures, written: Written
) -> None:
    """A status could not be written, and nothing is wrong with the service."""
    await failures.tell_failure(resource("bad"), Unreachable("connection refused"))

    assert written.statuses == []


async def test_a_pass_that_raises_touches_no_other(
    failures: Failures, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, a stray cancellation included, the queue goes on; it comes back."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_SECONDS", 0.01)
    raws = {key: resource(key[1]) for key in (BAD, GOOD)}
    parts: Any = SimpleNamespace(services=raws, failures=failures)
    errors = [RecursionError(), MemoryError(), asyncio.CancelledError(), KeyError("metadata")]
    passes: list[str] = []
    done = asyncio.Event()

    class Breaking(Reconciler):
        async def _pass(self, raw: dict[str, Any]) -> float:
            name = raw["metadata"]["name"]
            passes.append(name)
            if name == "bad" and errors:
                raise errors.pop(0)
            if passes.count("good") >= 2 and not errors:
                done.set()
            return 0.01

    queue = WorkQueue()
    working = asyncio.create_task(queue.run(Breaking(parts), 1))
    for key in raws:
        queue.add(key)
    await asyncio.wait_for(done.wait(), 20)
    queue.close()
    await asyncio.wait_for(working, 20)

    assert passes[:2] == ["bad", "good"]
    reasons = {c["reason"] for s in written.statuses for c in s["conditions"]}
    assert reasons == {"S", "InternalError"}
