"""How the bench of the operator counts requests, and how it judges its figures."""

import json
from pathlib import Path
from typing import Any

import orjson

from steelyard_operator.api.names import Role
from steelyard_operator.bench.audit import AuditLog, about_idle
from steelyard_operator.bench.options import TARGETS, is_busy
from steelyard_operator.bench.report import judged, table
from steelyard_operator.bench.standins import Worker, signals
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import WorkerState
from steelyard_operator.testing import pod


def event(verb: str, resource: str, name: str = "", stage: str = "ResponseComplete") -> Any:
    """Return a line of an audit log, as far as it is read."""
    return {"verb": verb, "stage": stage, "objectRef": {"resource": resource, "name": name}}


def test_requests_are_told_apart_by_whom_they_are_about() -> None:
    """An idle service's objects count for it, the Lease and watches for all, a busy one's not."""
    events = [
        event("patch", "inferenceservices", "svc-0001"),
        event("create", "pods", "svc-0001-3"),
        event("create", "events", "svc-0001.0123456789abcdef"),
        event("patch", "inferenceservices", "svc-0002"),
        event("update", "leases", "steelyard-operator"),
        event("list", "pods"),
    ]

    named, shared = about_idle(events, lambda name: name == "svc-0002")

    assert named == {"patch inferenceservices": 1, "create pods": 1, "create events": 1}
    assert shared == {"update leases": 1, "list pods": 1}


def test_a_watch_counts_once_and_no_line_is_read_twice(tmp_path: Path) -> None:
    """The log tells of a watch when it begins and when it ends; half a line waits for its end."""
    path = tmp_path / "audit.log"
    begun = json.dumps(event("watch", "pods", stage="ResponseStarted")) + "\n"
    ended = json.dumps(event("watch", "pods")) + "\n"
    log = AuditLog(path)

    path.write_text(begun + ended[:20])
    assert len(list(log.since_last())) == 1
    path.write_text(begun + ended)
    assert list(log.since_last()) == []


def test_a_figure_that_never_came_meets_no_target() -> None:
    """A target is met by a figure below it, and by nothing else."""
    figures = {"memory_mb": 499.0, "restart_seconds": 60.0, "change_to_pod_p99_seconds": None}

    targets = judged(figures)

    assert [name for name, each in targets.items() if each["met"]] == ["memory_mb"]
    assert set(targets) == set(TARGETS)
    assert table(targets, {**figures, "changes": 7}).count("NO") == 3


def test_stand_ins_say_what_the_operator_reads() -> None:
    """It takes their answers for those of a router and of a worker."""
    idle, busy = (RouterReading.read(signals("a", seconds)) for seconds in (0.0, 100.0))
    worker = Worker(pod(0, Role.PREFILL))

    assert (sum(idle.sums), busy.sums[0]) == (0, 50)
    told = WorkerState.read(orjson.loads(orjson.dumps(worker.document(10.0))))
    assert (told.role, told.phase) == (Role.PREFILL, "ready")
    assert told.steps is not None
    assert worker.take("/role", {"epoch": 2, "role": "decode"}) == 200
    assert worker.take("/drain", {"epoch": 1}) == 409


def test_so_many_of_a_hundred_services_are_busy() -> None:
    """And not all of the first ones."""
    busy = [number for number in range(100) if is_busy(f"svc-{number:04d}", 20)]

    assert len(busy) == 20
    assert max(busy) > 50
