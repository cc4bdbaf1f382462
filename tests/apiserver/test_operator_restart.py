"""Operators that end, begin again, wait for each other and take over, as processes."""

import signal
import time
from pathlib import Path

from steelyard_operator.testing.cluster import (
    APPS,
    BUDGETS,
    CORE,
    LEASE,
    POLICIES,
    SERVICES,
    Cluster,
    eventually,
    holder,
    operating,
)


def test_a_new_operator_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A restart reads; every object keeps its resource version."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace}

    def versions() -> dict[str, str]:
        found = {}
        for root, plural in (
            (CORE, "pods"),
            (CORE, "services"),
            (APPS, "deployments"),
            (APPS, "controllerrevisions"),
            (BUDGETS, "poddisruptionbudgets"),
            (POLICIES, "networkpolicies"),
            (SERVICES, "inferenceservices"),
        ):
            for item in cluster.call("GET", root, plural)["items"]:
                meta = item["metadata"]
                found[f"{plural}/{meta['name']}"] = meta["resourceVersion"]
        return found

    with operating(cluster.api, tmp_path, **settings):
        cluster.apply()
        eventually(lambda: cluster.condition("Reconciling")["status"] == "True", "a status")
        eventually(lambda: len(cluster.pods()) == 2, "two pods")
        time.sleep(1.5)  # There is no sign of an operator that does nothing more.
        before = versions()
    with operating(cluster.api, tmp_path, **settings):
        # A second service is seen after the first one: then the first one's pass is over too.
        eventually(lambda: holder(cluster.api), "the new operator leads")
        cluster.apply("later")
        eventually(lambda: len(cluster.pods()) == 4, "the pods of another service")
        after = versions()

    assert {name: after.get(name) for name in before} == before


def test_one_operator_serves_the_namespaces_that_it_is_given(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Each gets its pods, and a third one gets nothing."""
    places = [Cluster(cluster.api, f"{cluster.namespace}-{name}") for name in ("a", "b", "c")]
    for place in places:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place.namespace}}
        assert place.api.call("POST", "/api/v1/namespaces", body).status == 201
        place.call("POST", CORE, "serviceaccounts", {"metadata": {"name": "default"}})
        place.apply()
    settings = {
        "STEELYARD_NAMESPACE": ",".join(place.namespace for place in places[:2]),
        "STEELYARD_OPERATOR_NAMESPACE": cluster.namespace,
    }

    with operating(cluster.api, tmp_path, **settings):
        for place in places[:2]:
            eventually(lambda place=place: len(place.pods()) == 2, "two pods")
        assert places[2].pods() == []
        # Replaced, so what one namespace lists takes nothing of the other.
        places[0].delete(CORE, f"pods/{places[0].pods()[0]['metadata']['name']}", grace_seconds=0)
        eventually(lambda: len(places[0].pods()) == 2, "two pods again")
        assert len(places[1].pods()) == 2


def test_sigterm_gives_the_lease_back(cluster: Cluster, tmp_path: Path) -> None:
    """The process ends with 0, and the next one has a higher epoch without waiting."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace}
    epochs = []
    for _ in range(2):
        with operating(cluster.api, tmp_path, **settings) as process:
            eventually(lambda: holder(cluster.api), "an operator leads")
            epochs.append(
                cluster.api.call("GET", LEASE.format("steelyard-system")).body["spec"][
                    "leaseTransitions"
                ]
            )
            process.send_signal(signal.SIGTERM)
            # kopf's own end takes 5 s more.
            assert process.wait(timeout=4) == 0
        assert holder(cluster.api) == ""

    assert epochs[1] == epochs[0] + 1


def test_a_second_operator_waits_until_the_first_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    """After `kill -9` the Lease runs out, and the other one serves."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace, "STEELYARD_LEASE_SECONDS": "3"}
    with operating(cluster.api, tmp_path, **settings) as first:
        leader = eventually(lambda: holder(cluster.api), "an operator leads")
        with operating(cluster.api, tmp_path, **settings) as second:
            cluster.apply()
            eventually(lambda: len(cluster.pods()) == 2, "two pods")
            assert holder(cluster.api) == leader
            first.kill()
            eventually(lambda: holder(cluster.api) != leader, "the other operator leads")
            cluster.edit({"spec": {"decode": {"replicas": 2}}})
            eventually(lambda: len(cluster.pods()) == 3, "three pods")
            assert second.poll() is None


def test_a_leader_that_was_stopped_writes_nothing_when_it_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    """After SIGSTOP the other one leads, with a higher epoch; SIGCONT makes the old one end."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace, "STEELYARD_LEASE_SECONDS": "3"}

    def epoch() -> int:
        lease = cluster.api.call("GET", LEASE.format("steelyard-system")).body
        return int(lease["spec"]["leaseTransitions"])

    with operating(cluster.api, tmp_path, **settings) as first:
        leader = eventually(lambda: holder(cluster.api), "an operator leads")
        before = epoch()
        cluster.apply()
        eventually(lambda: len(cluster.pods()) == 2, "two pods")
        with operating(cluster.api, tmp_path, **settings) as second:
            first.send_signal(signal.SIGSTOP)
            try:
                eventually(
                    lambda: holder(cluster.api) not in ("", leader), "the other operator leads"
                )
                cluster.edit({"spec": {"decode": {"replicas": 2}}})
                eventually(lambda: len(cluster.pods()) == 3, "three pods")
                uids = {pod["metadata"]["uid"] for pod in cluster.pods()}
                now = holder(cluster.api)
            finally:
                first.send_signal(signal.SIGCONT)
            assert first.wait(timeout=30) != 0
            assert (holder(cluster.api), second.poll()) == (now, None)
            assert epoch() == before + 1
            assert {pod["metadata"]["uid"] for pod in cluster.pods()} == uids
