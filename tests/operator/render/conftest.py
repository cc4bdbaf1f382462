"""What the tests of rendered objects share: services from a few lines, and their objects."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render.owner import Owner

Make = Callable[..., InferenceService]


@pytest.fixture
def owner() -> Owner:
    """The resource as an API server knows it."""
    return Owner("s", "team", "1234")


@pytest.fixture
def a_service() -> Make:
    """Make a service from fields of its spec."""

    def make(**spec: Any) -> InferenceService:
        document = {
            "apiVersion": "steelyard.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "s", "namespace": "team"},
            "spec": {"model": {"uri": "file:///m.gguf"}, **copy.deepcopy(spec)},
        }
        return InferenceService.model_validate(document)

    return make


class Network:
    """What a cluster's network does with NetworkPolicies: ingress over TCP."""

    def __init__(self, policies: list[Mapping[str, Any]]) -> None:
        self._policies = policies

    def allows(self, source: Mapping[str, Any], target: Mapping[str, Any], port: int) -> bool:
        """Whether one pod reaches a port of another; pods have namespace, its labels, and labels.

        A pod that no policy selects is open; else one rule must let the connection in.
        """
        selecting = [
            policy
            for policy in self._policies
            if policy["metadata"]["namespace"] == target["namespace"]
            and matches(policy["spec"]["podSelector"], target["labels"])
        ]
        return not selecting or any(
            self._admits(policy, rule, source, port)
            for policy in selecting
            for rule in policy["spec"]["ingress"]
        )

    @staticmethod
    def _admits(
        policy: Mapping[str, Any], rule: Mapping[str, Any], source: Mapping[str, Any], port: int
    ) -> bool:
        open_ports = rule.get("ports")
        if open_ports is not None and not any(
            one["port"] <= port <= one.get("endPort", one["port"]) for one in open_ports
        ):
            return False
        peers = rule.get("from")
        return peers is None or any(Network._is(policy, peer, source) for peer in peers)

    @staticmethod
    def _is(policy: Mapping[str, Any], peer: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
        if "namespaceSelector" in peer:
            labels = {"kubernetes.io/metadata.name": source["namespace"]}
            labels |= source.get("namespace_labels", {})
            if not matches(peer["namespaceSelector"], labels):
                return False
        elif source["namespace"] != policy["metadata"]["namespace"]:
            return False
        return matches(peer.get("podSelector", {}), source["labels"])


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether labels are what a selector asks for; our policies use equality alone."""
    assert selector.keys() <= {"matchLabels"}, "the evaluator knows matchLabels only"
    return selector.get("matchLabels", {}).items() <= labels.items()


@pytest.fixture
def network() -> type[Network]:
    """Evaluates NetworkPolicies."""
    return Network
