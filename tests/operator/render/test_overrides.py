"""What a service may say about its workers' pods, and what it may not."""

from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.api.pods import ContainerOverride, PodOverrides, PodTemplate
from steelyard_operator.render.refusals import refused
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

# Each was decided: docs/operator.md, "What the right to write a service is worth".
REACH = {
    PodTemplate: {"metadata", "spec"},
    ContainerOverride: {"name", "env"},
    PodOverrides: {
        *("node_selector", "tolerations", "topology_spread_constraints"),
        *("runtime_class_name", "scheduler_name", "service_account_name"),
        *("image_pull_secrets", "containers"),
    },
}
INJECTORS = {
    "sidecar.istio.io/inject": "true",
    "vault.hashicorp.com/agent-inject": "true",
    "k8s.v1.cni.cncf.io/networks": "storage",
}


def both(**template: Any) -> dict[str, Any]:
    """Return fields with the same pod template for both roles."""
    return {role: {"podTemplate": template} for role in ("prefill", "decode")}


@pytest.mark.parametrize("model", REACH, ids=lambda model: str(model.__name__))
def test_a_template_reaches_what_was_decided(model: Any) -> None:
    """A new field needs a decision, and a line in the document."""
    assert set(model.model_fields) == REACH[model]


@pytest.mark.parametrize("kind", ["labels", "annotations"])
@pytest.mark.parametrize("name", ["steelyard.dev/prefill", "steelyard.dev/anything"])
def test_the_operators_own_names_are_refused(a_service: Any, kind: str, name: str) -> None:
    """A label with a role would put a worker behind a Service that it does not serve."""
    service = a_service(**both(metadata={kind: {name: "true"}}))

    assert refused(service, Settings()) == (
        f"`spec.prefill.podTemplate.metadata.{kind}` must not have '{name}': names of "
        "steelyard.dev are the operator's"
    )


def test_annotations_of_injectors_are_allowed_until_they_are_listed(a_service: Any) -> None:
    """The administrator knows which injectors there are, and what they may do."""
    service = a_service(**both(metadata={"annotations": INJECTORS}))
    listed = Settings(denied_pod_metadata=("vault.hashicorp.com/",))

    assert refused(service, Settings()) is None
    sentence = refused(service, listed)
    assert sentence is not None
    assert "'vault.hashicorp.com/agent-inject'" in sentence
    assert "STEELYARD_DENIED_POD_METADATA" in sentence


@pytest.mark.parametrize("name", ["system-node-critical", "system-cluster-critical"])
def test_the_clusters_own_priority_classes_are_refused(a_service: Any, name: str) -> None:
    """A service must not push out what the cluster cannot be without."""
    service = a_service(prefill={"priorityClassName": name}, decode={"priorityClassName": name})

    assert refused(service, Settings()) == (
        f"`spec.prefill.priorityClassName` must not be one of the cluster's own, got '{name}'"
    )
    assert refused(a_service(), Settings()) is None


def test_no_template_gets_at_the_node(a_service: Any) -> None:
    """Everything that a template can say, and still a restricted pod without a token."""
    service = a_service(
        **both(
            metadata={"labels": {"app.kubernetes.io/component": "router"}},
            spec={
                "serviceAccountName": "mine",
                "runtimeClassName": "gvisor",
                "schedulerName": "mine",
                "nodeSelector": {"a": "b"},
                "containers": [{"name": "engine", "env": [{"name": "A", "value": "b"}]}],
            },
        )
    )
    template = worker_template(service, Settings(), Role.DECODE)
    spec = template["spec"]

    assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
