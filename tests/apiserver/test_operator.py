"""The operator as a process on a real API server; the test plays kubelet and workers.

One operator serves all of these tests, each in a namespace of its own.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from steelyard_operator.testing.cluster import (
    APPS,
    BUDGETS,
    CORE,
    POLICIES,
    SERVICES,
    Cluster,
    Worker,
    eventually,
    holder,
    operating,
)


@pytest.fixture(scope="module")
def operator(system: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An operator that serves the whole cluster."""
    with operating(system, tmp_path_factory.mktemp("operator")) as process:
        eventually(lambda: process.poll() is None and holder(system), "an operator leads")
        yield


@pytest.fixture
def operated(operator: None, cluster: Cluster) -> Cluster:
    """A namespace that an operator serves."""
    return cluster


def test_a_service_gets_everything_that_it_needs(operated: Cluster) -> None:
    """Pods, Services, router, budgets, policies, a template and a token; the status says so."""
    operated.apply()

    eventually(lambda: len(operated.pods()) == 2, "two pods")
    eventually(lambda: operated.condition("Reconciling")["status"] == "True", "a status")
    assert operated.names(CORE, "services") == ["demo-decode", "demo-prefill", "demo-router"]
    assert operated.names(APPS, "deployments") == ["demo-router"]
    assert len(operated.names(APPS, "controllerrevisions")) == 1
    secrets = operated.names(CORE, "secrets")
    mounted = {
        v["secret"]["secretName"]
        for p in operated.pods()
        for v in p["spec"]["volumes"]
        if "secret" in v
    }
    assert sorted(mounted) == secrets
    assert [name.rpartition("-")[0] for name in secrets] == ["demo-token", "demo-worker-key"]
    budgets = operated.names(BUDGETS, "poddisruptionbudgets")
    assert budgets == ["demo-router", "demo-workers"]
    policies = operated.names(POLICIES, "networkpolicies")
    assert policies == ["demo-router", "demo-workers"]
    owners = [pod["metadata"]["ownerReferences"] for pod in operated.pods()]
    assert all(owner["controller"] and owner["blockOwnerDeletion"] for (owner,) in owners)
    events = operated.call("GET", "/apis/events.k8s.io/v1/namespaces", "events")["items"]
    assert {event["reason"] for event in events} == {"Created"}
    assert len(events) == 2


def test_nothing_is_written_to_the_resource_but_status(operated: Cluster) -> None:
    """No finalizer and no annotation: a resource goes away without the operator."""
    operated.apply()
    eventually(lambda: operated.condition("Reconciling")["status"] == "True", "a status")

    meta = operated.call("GET", SERVICES, "inferenceservices/demo")["metadata"]
    assert (meta.get("finalizers"), meta.get("annotations")) == (None, None)
    assert meta["generation"] == 1


def test_what_somebody_else_changes_is_put_right(operated: Cluster) -> None:
    """A deleted Service, a scaled router, an edited budget and a missing label come back."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")

    operated.delete(CORE, "services/demo-decode")
    operated.patch(APPS, "deployments/demo-router", {"spec": {"replicas": 7}})
    unlabelled = {"metadata": {"labels": {"steelyard.dev/service": None}}}
    operated.patch(POLICIES, "networkpolicies/demo-workers", unlabelled)
    spec = {"spec": {"minAvailable": 5}}
    operated.patch(BUDGETS, "poddisruptionbudgets/demo-workers", spec)

    eventually(lambda: operated.found(CORE, "services/demo-decode"), "the Service is back")

    def right() -> bool:
        deployment = operated.call("GET", APPS, "deployments/demo-router")
        policy = operated.call("GET", POLICIES, "networkpolicies/demo-workers")
        budget = operated.call("GET", BUDGETS, "poddisruptionbudgets/demo-workers")
        return (
            deployment["spec"]["replicas"] == 2
            and policy["metadata"]["labels"].get("steelyard.dev/service") == "demo"
            and budget["spec"]["minAvailable"] == 0
        )

    eventually(right, "all as it was")


def test_a_lost_pod_is_made_again(operated: Cluster) -> None:
    """The new one has the role of the one that is gone."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")
    before = {pod["metadata"]["uid"] for pod in operated.pods()}

    operated.ends("demo-0")

    def whole() -> bool:
        labels = [pod["metadata"]["labels"] for pod in operated.pods()]
        roles = [r for r in ("prefill", "decode") for x in labels if f"steelyard.dev/{r}" in x]
        return roles == ["prefill", "decode"]

    eventually(whole, "one worker of each role")
    assert {pod["metadata"]["uid"] for pod in operated.pods()} != before


def test_an_object_of_somebody_else_is_never_touched(operated: Cluster) -> None:
    """A Service under our name stays as it is, and the status names it."""
    mine = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo-decode", "labels": {"mine": "yes"}},
        "spec": {"ports": [{"port": 1234}], "selector": {"app": "mine"}},
    }
    version = operated.call("POST", CORE, "services", mine)["metadata"]["resourceVersion"]
    operated.apply()

    stalled = eventually(
        lambda: (found := operated.condition("Stalled"))["status"] == "True" and found, "Stalled"
    )

    assert "Service 'demo-decode' was not made by this operator" in stalled["message"]
    after = operated.call("GET", CORE, "services/demo-decode")["metadata"]["resourceVersion"]
    assert after == version


def test_a_slot_with_a_foreign_pod_is_left_out(operated: Cluster) -> None:
    """Workers take other slots; the foreign pod lives on."""
    container = {"name": "c", "image": "mine"}
    foreign = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo-0"},
        "spec": {"containers": [container]},
    }
    uid = operated.call("POST", CORE, "pods", foreign)["metadata"]["uid"]
    operated.apply()

    eventually(lambda: operated.names(CORE, "pods") == ["demo-0", "demo-1", "demo-2"], "3 pods")
    assert operated.call("GET", CORE, "pods/demo-0")["metadata"]["uid"] == uid


def test_quota_is_a_reason_and_passes(operated: Cluster) -> None:
    """While no pod is admitted the service is Reconciling; with more quota it goes on."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "0"}},
    }
    operated.call("POST", CORE, "resourcequotas", quota)
    # Its controller, which does not run here, would write this.
    none = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    operated.patch(CORE, "resourcequotas/few/status", none)
    operated.apply()

    refused = eventually(
        lambda: (
            "exceeded quota" in (found := operated.condition("Reconciling"))["message"] and found
        ),
        "the status says why",
    )
    assert refused["status"] == "True"
    operated.delete(CORE, "resourcequotas/few")
    eventually(lambda: len(operated.pods()) == 2, "two pods")


def test_a_kind_that_the_cluster_lacks_is_a_reason(operated: Cluster) -> None:
    """Without the Gateway API its route is refused, for as long as that is so; workers are made."""
    operated.apply(router={"gateway": {"parentRef": {"name": "front"}}})

    refused = eventually(
        lambda: "HTTPRoute" in (found := operated.condition("Reconciling"))["message"] and found,
        "the status says why",
    )
    assert (refused["status"], refused["reason"]) == ("True", "RefusedByApiServer")
    eventually(lambda: len(operated.pods()) == 2, "two pods")
    assert "HTTPRoute" in operated.condition("Reconciling")["message"]


def test_a_worker_drains_before_it_is_deleted(operated: Cluster) -> None:
    """Labels off, then POST /drain with the epoch, then nothing in flight, then DELETE."""
    spec = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}
    operated.apply(**spec)
    pods = eventually(lambda: len(found := operated.pods()) == 3 and found, "three pods")
    workers: dict[str, Worker] = {}
    try:
        for number, pod in enumerate(pods, start=2):
            role = "decode" if "steelyard.dev/decode" in pod["metadata"]["labels"] else "prefill"
            ip = f"127.77.{os.getpid() % 250}.{number}"
            workers[pod["metadata"]["name"]] = Worker(ip, role)
            workers[pod["metadata"]["name"]].in_flight = 1
            operated.starts(pod, ip)

        def fingerprinted() -> bool:
            labels = [pod["metadata"]["labels"] for pod in operated.pods()]
            return all(x.get("steelyard.dev/kv-fingerprint") == "f" * 16 for x in labels)

        eventually(fingerprinted, "every pod has its fingerprint")
        # The least busy one leaves, as it is now and not as it was when it became ready.
        busy, idle = sorted(n for n, worker in workers.items() if worker.role == "decode")
        workers[busy].in_flight, workers[idle].in_flight = 5, 1
        operated.edit({"spec": {"decode": {"replicas": 1}}})
        leaving = eventually(
            lambda: [name for name, worker in workers.items() if worker.orders], "a drain"
        )
        (name,) = leaving
        assert name == idle
        order = workers[name].orders[0]
        labels = operated.call("GET", CORE, f"pods/{name}")["metadata"]["labels"]
        assert not {"steelyard.dev/decode", "steelyard.dev/prefill"} & set(labels)
        assert order[0] == "/drain"
        assert order[1]["epoch"] >= 1

        meta = operated.call("GET", CORE, f"pods/{name}")["metadata"]
        assert "deletionTimestamp" not in meta

        # What this version cannot serve ends no drain and begins none.
        operated.edit({"spec": {"compression": {"weights": "INT4"}}})
        eventually(lambda: operated.condition("Stalled")["reason"] == "NotSupported", "Stalled")
        workers[name].in_flight = 0
        eventually(
            lambda: "deletionTimestamp" in operated.call("GET", CORE, f"pods/{name}")["metadata"],
            "the empty worker is deleted",
        )
        operated.ends(name)
        eventually(lambda: len(operated.pods()) == 2, "two pods")
        assert [n for n, worker in workers.items() if worker.orders] == [name]
    finally:
        for worker in workers.values():
            worker.close()


def test_a_service_that_names_the_master_key_gets_no_pod(operated: Cluster) -> None:
    """It is told in its status, and served once it names a Secret of its own."""
    reference = {"name": "steelyard-master-key", "key": "key"}
    operated.apply(router={"apiKeysSecretRef": reference})
    eventually(lambda: operated.condition("Stalled")["status"] == "True", "Stalled")

    assert "must not name a Secret of the operator" in operated.condition("Stalled")["message"]
    assert operated.pods() == []
    assert operated.call("GET", APPS, "deployments")["items"] == []

    operated.edit({"spec": {"router": {"apiKeysSecretRef": {"name": "clients"}}}})
    eventually(lambda: len(operated.pods()) == 2, "two pods")


def test_suspend_keeps_hands_off(operated: Cluster) -> None:
    """A Service that is deleted meanwhile comes back only afterwards."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")
    operated.edit({"spec": {"suspend": "Enabled"}})

    def generation() -> int:
        # The workers are made before the first status is written.
        status = operated.call("GET", SERVICES, "inferenceservices/demo").get("status", {})
        return int(status.get("observedGeneration", 0))

    eventually(lambda: generation() == 2, "the switch was seen")
    operated.delete(CORE, "services/demo-decode")
    operated.edit({"spec": {"cost": None}})
    eventually(lambda: generation() == 3, "a pass after the deletion")
    assert not operated.found(CORE, "services/demo-decode")

    operated.edit({"spec": {"suspend": "Disabled"}})
    eventually(lambda: operated.found(CORE, "services/demo-decode"), "the Service is back")
