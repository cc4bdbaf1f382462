"""A flip on a real API server: a label moves, a pod stays, whoever dies on the way.

The workers' admin ports are stand-ins on loopback addresses; pods do not run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steelyard_operator.testing.cluster import (
    CORE,
    Cluster,
    eventually,
    forked,
    holder,
    operating,
    release,
)
from steelyard_operator.testing.fleet import LABELS, Fleet

DYING = "steelyard_operator.testing.dying"


@contextmanager
def fleet(cluster: Cluster, prefill: int, decode: int) -> Iterator[Fleet]:
    """Make a service and let its workers run; an operator must be there."""
    found = Fleet(cluster, prefill + decode)
    counts = {"prefill": {"replicas": prefill}, "decode": {"replicas": decode}}
    cluster.apply(**counts, capacity={"maxAccelerators": prefill + decode})
    eventually(lambda: len(cluster.pods()) == prefill + decode, "the pods")
    try:
        found.start()

        def known() -> bool:
            labels = [pod["metadata"]["labels"] for pod in cluster.pods()]
            return all(each.get("steelyard.dev/kv-fingerprint") == "f" * 16 for each in labels)

        eventually(known, "every pod has its fingerprint")
        yield found
    finally:
        for worker in found.workers.values():
            worker.close()


def test_a_decode_worker_becomes_a_prefill_worker_in_its_pod(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """The least busy one; its requests end first; the status and the events tell it."""
    with operating(cluster.api, tmp_path, **settings), fleet(cluster, 1, 2) as found:
        before = found.uids()
        busy, idle = (n for n, w in sorted(found.workers.items()) if w.role == "decode")
        found.workers[busy].in_flight, found.workers[idle].in_flight = 5, 1

        found.ask(2, 1)

        donor = found.workers[idle]
        eventually(lambda: donor.phase == "draining", "the worker drains")
        meta = cluster.call("GET", CORE, f"pods/{idle}")["metadata"]
        assert not set(LABELS.values()) & set(meta["labels"])
        running = found.plan()
        assert (running["state"], running["kind"]) == ("Running", "Flip")
        assert (running["source"], running["target"]) == (
            {"prefill": 1, "decode": 2},
            {"prefill": 2, "decode": 1},
        )
        assert running["pods"] == [meta["uid"]]
        assert cluster.condition("Reconciling")["reason"] == "Rebalancing"
        donor.in_flight = 0
        eventually(lambda: found.agrees(2, 1), "the new split")

        assert found.uids() == before
        assert [path for path, _ in donor.orders] == ["/drain", "/role"]
        assert {body["epoch"] for _, body in donor.orders} == {running["epoch"]}
        assert donor.orders[1][1]["role"] == "prefill"
        assert not any(found.workers[n].orders for n in found.workers if n != idle)
        assert found.plan()["state"] == "Completed"

        def told() -> bool:
            events = cluster.call("GET", "/apis/events.k8s.io/v1/namespaces", "events")["items"]
            reasons = {event["reason"] for event in events}
            return {"FlipPlanned", "Flipping", "Flipped", "FlipCompleted"} <= reasons

        eventually(told, "events of every step")


def test_a_worker_that_refuses_stays_what_it_was(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Another fingerprint after the change: rolled back, and the budget makes no pod meanwhile."""
    with operating(cluster.api, tmp_path, **settings), fleet(cluster, 1, 2) as found:
        for worker in found.workers.values():
            worker.in_flight = 1
        found.ask(2, 1)
        (name,) = eventually(
            lambda: [n for n, w in found.workers.items() if w.phase == "draining"], "a drain"
        )
        found.workers[name].fingerprint = "e" * 64
        found.workers[name].in_flight = 0

        eventually(lambda: found.plan().get("state") == "RolledBack", "the plan is rolled back")

        assert found.plan()["message"] == f"{name} has another fingerprint now"
        assert found.plan()["target"] == {"prefill": 1, "decode": 2}


def test_the_operator_may_die_at_each_step(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Before and after every request that changes something: the next one goes on from there."""
    armed = tmp_path / "armed"
    settings |= {"STEELYARD_DYING_FILE": str(armed)}
    with operating(cluster.api, tmp_path, **settings) as first, fleet(cluster, 1, 2) as found:
        first.kill()
        before, split = found.uids(), (1, 2)
        deaths, k = 2, 0
        while deaths:
            k, deaths = k + 1, 0
            for when in ("before", "after"):
                release(cluster.api, cluster.namespace)
                with forked(cluster.api, tmp_path, module=DYING, **settings) as dying:
                    eventually(lambda: holder(cluster.api, cluster.namespace), "it leads")
                    found.comes_to(*split, "what the one before has left")
                    assert found.uids() == before, "a pod was restarted"
                    split = split[::-1]
                    armed.write_text(f"{when} {k}")
                    found.ask(*split)
                    what = f"death {when} request {k}, or the end"
                    found.comes_to(*split, what, lambda dying=dying: dying.poll() is not None)
                    deaths += dying.poll() is not None
                    dying.kill()
                armed.unlink()
        print(f"died before and after each of {k - 1} requests")  # noqa: T201
        assert found.uids() == before
        assert k > 5


@pytest.mark.parametrize("whose", ["donor", "receiver"])
def test_a_worker_may_die_at_each_step(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path, whose: str
) -> None:
    """The worker that changes its role, or one of its new role: the split is reached all the same.

    There is never a pod more than the budget has places.
    """
    armed, paused = tmp_path / "armed", tmp_path / "armed.paused"
    settings |= {"STEELYARD_DYING_FILE": str(armed)}
    with (
        forked(cluster.api, tmp_path, module=DYING, **settings),
        fleet(cluster, 2, 2) as found,
    ):
        splits, died, k = [(3, 1), (2, 2)], True, 0
        while died:
            k, split = k + 1, splits[0]
            armed.write_text(f"pause {k}")
            found.ask(*split)
            found.comes_to(*split, f"request {k}, or the end", paused.exists)
            died = paused.exists()
            armed.unlink()
            if died:
                found.lose(found.victim(whose, "prefill" if split == (3, 1) else "decode"))
                paused.unlink()
            found.comes_to(*split, f"the split after the {whose} died at request {k}")
            splits.reverse()
        print(f"the {whose} died at each of {k - 1} requests")  # noqa: T201
        assert k > 5
