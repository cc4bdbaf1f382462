"""The operator ends before and after each request that changes something, in every flow.

With `DEATHS=all` (`make deaths`, seven minutes) at each of them, else at every third.
Flips have the same test in `test_flip.py`. The operators are forks; the next one takes the Lease of
the dead one at once, and must bring the flow to its end before anything else is asked.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard_operator.testing.cluster import (
    APPS,
    BUDGETS,
    CORE,
    POLICIES,
    SERVICES,
    Cluster,
    eventually,
    forked,
    holder,
    release,
)
from steelyard_operator.testing.life import life

DYING = "steelyard_operator.testing.dying"
BUDGET = 3
STEP = 1 if os.environ.get("DEATHS") == "all" else 3


@pytest.fixture
def dying(settings: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The settings of an operator that dies as the file says."""
    return {**settings, "STEELYARD_DYING_FILE": str(tmp_path / "armed")}


def deaths(
    cluster: Cluster,
    folder: Path,
    settings: dict[str, str],
    ask: Callable[[], None],
    done: Callable[[], bool],
    *,
    between: Callable[[], None] = lambda: None,
) -> int:
    """Ask for something again and again; the operator dies at another request each time.

    Args:
        cluster: where.
        folder: for logs.
        settings: of the operators.
        ask: does what the user does.
        done: whether the flow has come to its end.
        between: brings everything back to where `ask` can be done once more.

    Returns:
        The last request that was tried and is there.
    """
    armed = folder / "armed"
    k, died, begun = 1 - STEP, 2, False
    while died:
        k, died = k + STEP, 0
        for when in ("before", "after"):
            release(cluster.api, cluster.namespace)
            with forked(cluster.api, folder, module=DYING, **settings) as operator:
                eventually(lambda: holder(cluster.api, cluster.namespace), "it leads")
                if begun:
                    eventually(done, f"what the death before {when} request {k} has left")
                between()
                begun = True
                armed.write_text(f"{when} {k}")
                ask()
                eventually(
                    lambda operator=operator: operator.poll() is not None or done(),
                    f"death {when} request {k}, or the end",
                )
                died += operator.poll() is not None
                operator.kill()
            armed.unlink()
    # At k there is no request any more; of the ones just before it some may be left out.
    print(f"died at every {STEP}. request, before and after; none is the {k}.")  # noqa: T201
    return k - STEP


def test_scaling_survives_every_death(
    cluster: Cluster, dying: dict[str, str], tmp_path: Path
) -> None:
    """One decode worker more, and one less: drained, deleted, nothing double."""
    with life(cluster, BUDGET) as found:
        cluster.apply(capacity={"maxAccelerators": BUDGET})
        wanted = [1]

        def ask() -> None:
            wanted[0] = 3 - wanted[0]
            cluster.edit({"spec": {"decode": {"replicas": wanted[0]}}})

        def done() -> bool:
            return found.steady(1, wanted[0])

        def between() -> None:
            eventually(done, "the workers")

        assert deaths(cluster, tmp_path, dying, ask, done, between=between) >= 3


def test_a_rollout_survives_every_death(
    cluster: Cluster, dying: dict[str, str], tmp_path: Path
) -> None:
    """Every worker is replaced once, with never more than one beyond the number."""
    with life(cluster, BUDGET) as found:
        cluster.apply(capacity={"maxAccelerators": BUDGET})
        turn = [0]

        def ask() -> None:
            turn[0] += 1
            env = [{"name": "TURN", "value": str(turn[0])}]
            cluster.edit({"spec": {"runtime": {"env": env}}})

        def done() -> bool:
            return (not turn[0] or found.runs("TURN", str(turn[0]))) and found.steady(1, 1)

        def between() -> None:
            eventually(done, "the workers")

        assert deaths(cluster, tmp_path, dying, ask, done, between=between) >= 6
        assert found.most <= BUDGET


def test_a_new_service_survives_every_death(
    cluster: Cluster, dying: dict[str, str], tmp_path: Path
) -> None:
    """Everything that belongs to it is there once, whenever the operator ended while making it."""
    turn = [0]

    def name() -> str:
        return f"demo-{turn[0]}"

    def ask() -> None:
        turn[0] += 1
        cluster.apply(name())

    def done() -> bool:
        pods = [
            pod
            for pod in cluster.pods()
            if pod["metadata"]["labels"]["steelyard.dev/service"] == name()
        ]
        assert len(pods) <= 2, "a worker too many"

        def of(root: str, plural: str) -> list[str]:
            return [each for each in cluster.names(root, plural) if each.startswith(f"{name()}-")]

        status = cluster.call("GET", SERVICES, f"inferenceservices/{name()}").get("status", {})
        return (
            len(pods) == 2
            and len(of(CORE, "services")) == 3
            and len(of(APPS, "deployments")) == 1
            and len(of(APPS, "controllerrevisions")) == 1
            and len(of(CORE, "secrets")) == 2  # the token and the workers' key
            and len(of(BUDGETS, "poddisruptionbudgets")) == 2
            and len(of(POLICIES, "networkpolicies")) == 2
            and status.get("observedGeneration") == 1
        )

    assert deaths(cluster, tmp_path, dying, ask, done) >= 10


def test_a_deletion_survives_every_death(
    cluster: Cluster, dying: dict[str, str], tmp_path: Path
) -> None:
    """Workers are drained and deleted, with a request in flight when it began."""
    with life(cluster, BUDGET) as found:

        def between() -> None:
            cluster.apply(capacity={"maxAccelerators": BUDGET})
            eventually(lambda: found.steady(1, 1), "the workers")

        def ask() -> None:
            # As kubectl's --cascade=foreground: the resource stays until its pods are gone.
            cluster.call(
                "DELETE",
                SERVICES,
                "inferenceservices/demo",
                {"propagationPolicy": "Foreground"},
            )

        def done() -> bool:
            found.live()
            if cluster.pods():
                return False
            # The garbage collector, which does not run here, would take these along.
            for root, plural in (
                (CORE, "services"),
                (APPS, "deployments"),
                (APPS, "controllerrevisions"),
                (BUDGETS, "poddisruptionbudgets"),
                (POLICIES, "networkpolicies"),
                (CORE, "secrets"),
            ):
                for each in cluster.names(root, plural):
                    if each.startswith("demo-"):
                        cluster.delete(root, f"{plural}/{each}")
            if cluster.found(SERVICES, "inferenceservices/demo"):
                cluster.edit({"metadata": {"finalizers": None}})
            return True

        assert deaths(cluster, tmp_path, dying, ask, done, between=between) >= 3
