"""What makes a new revision of the workers, and what does not."""

import copy
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.render.revision import (
    controller_revision,
    inputs,
    is_what_it_says,
    revision_hash,
    sealed_text,
)
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

# What an API server makes of a service that says nothing but its model.
READ_BACK = {
    "runtime": {"backend": "Native"},
    "prefill": {"tensorParallel": 1},
    "decode": {"tensorParallel": 1},
    "speculation": {"method": "None", "policy": "Adaptive"},
    "compression": {"weights": "None", "kvCache": "Auto"},
    "objectives": {"percentile": 95},
    "capacity": {},
    "rebalancing": {"mode": "Auto", "flip": "Enabled", "cooldownSeconds": 60},
    "router": {"replicas": 2, "service": {"type": "ClusterIP", "port": 80}},
    "rollout": {"maxUnavailable": 0, "maxSurge": 1, "drainSeconds": 30, "paused": "Disabled"},
    "suspend": "Disabled",
}
LARGE = {"resources": {"limits": {"cpu": 2}}}

SAME: dict[str, dict[str, Any]] = {
    "defaults as read back": READ_BACK,
    "replicas": {"decode": {"replicas": 7}},
    "a range": {"prefill": {"minReplicas": 1, "maxReplicas": 3}},
    "objectives": {"objectives": {"ttftMilliseconds": 100}},
    "cost": {"cost": {"acceleratorHourly": "1"}},
    "capacity": {"capacity": {"maxAccelerators": 8}},
    "router": {"router": {"replicas": 5, "service": {"port": 81}}},
    "bounds of a rollout": {"rollout": {"maxSurge": 3, "paused": "Enabled"}},
    "suspend": {"suspend": "Enabled"},
}
OTHER: dict[str, dict[str, Any]] = {
    "model": {"model": {"uri": "file:///other.gguf"}},
    "name": {"model": {"uri": "file:///m.gguf", "servedName": "x"}},
    "length": {"model": {"uri": "file:///m.gguf", "maxModelLen": 9}},
    "backend": {"runtime": {"backend": "VLLM"}},
    "image": {"runtime": {"image": "i"}},
    "arguments": {"runtime": {"extraArgs": ["--dtype", "float32"]}},
    "environment": {"runtime": {"env": [{"name": "A", "value": "b"}]}},
    "resources": {"prefill": LARGE, "decode": LARGE},
    "drain": {"rollout": {"drainSeconds": 31}},
    "restart": {"rollout": {"restartedAt": "2026-01-01T00:00:00Z"}},
}


@pytest.mark.parametrize("spec", SAME.values(), ids=SAME)
def test_what_no_pod_depends_on_makes_no_revision(a_service: Any, spec: dict[str, Any]) -> None:
    """Numbers, bounds, and defaults that appear on read replace no worker."""
    assert revision_hash(a_service(**spec), Role.DECODE) == revision_hash(a_service(), Role.DECODE)


@pytest.mark.parametrize("spec", OTHER.values(), ids=OTHER)
def test_what_pods_are_made_from_makes_a_revision(a_service: Any, spec: dict[str, Any]) -> None:
    """Each input that is on the list changes the hash."""
    changed = revision_hash(a_service(**spec), Role.DECODE)

    assert changed != revision_hash(a_service(), Role.DECODE)


def test_roles_share_a_revision_until_they_differ(a_service: Any) -> None:
    """Workers that may change their role are of one revision; others have that of their role."""
    alike = a_service(prefill=LARGE, decode=LARGE)
    different = a_service(prefill=LARGE, rebalancing={"flip": "Disabled"})

    assert revision_hash(alike, Role.PREFILL) == revision_hash(alike, Role.DECODE)
    assert revision_hash(different, Role.PREFILL) != revision_hash(different, Role.DECODE)


def test_every_field_of_a_service_is_an_input_or_not(a_service: Any) -> None:
    """A new block of the resource must be sorted into one of the tables above."""
    sorted_here = {field for spec in (*SAME.values(), *OTHER.values()) for field in spec}
    fields = InferenceService.model_fields["spec"].annotation.model_fields.values()  # type: ignore[union-attr]

    assert {field.alias for field in fields} <= sorted_here


def test_another_operator_changes_the_template_and_not_the_revision(a_service: Any) -> None:
    """New default images are for new revisions: an upgrade of the operator restarts nothing."""
    upgraded = Settings(worker_image="steelyard-runtime:next")
    service = a_service()

    assert worker_template(service, upgraded, Role.DECODE) != worker_template(
        service, Settings(), Role.DECODE
    )
    # The hash has no way to know of settings; the constant shows that a release does not move it.
    assert revision_hash(service, Role.DECODE) == "c65a431860"


def test_a_seal_is_over_everything_that_a_pod_is_made_from(a_service: Any, owner: Any) -> None:
    """Another template, hash, name or service is another text; number and owner are not in it."""
    key = MasterKey(b"k" * 32)
    template = worker_template(a_service(), Settings(), Role.DECODE)
    made = controller_revision(owner, template, "abc", 3, seal=key.seal)
    seal = made["metadata"]["annotations"]["steelyard.dev/seal"]
    assert key.has_sealed(sealed_text(made), seal)
    assert not MasterKey(b"o" * 32).has_sealed(sealed_text(made), seal)
    assert not key.has_sealed(sealed_text(made), None)

    renumbered = {**made, "revision": 9}
    assert key.has_sealed(sealed_text(renumbered), seal)
    for change in (
        lambda body: body["data"]["template"]["spec"]["containers"][0].update(image="other"),
        lambda body: body["data"].update(inputs={"model": {}}),
        lambda body: body["metadata"]["labels"].update({"steelyard.dev/revision": "abd"}),
        lambda body: body["metadata"]["labels"].update({"steelyard.dev/service": "t"}),
        lambda body: body["metadata"].update(name="t-abc"),
        lambda body: body["metadata"].update(namespace="elsewhere"),
    ):
        changed = copy.deepcopy(made)
        change(changed)
        assert not key.has_sealed(sealed_text(changed), seal)


def test_a_revision_without_a_seal_must_be_what_its_hash_says(a_service: Any, owner: Any) -> None:
    """One of an operator that knew no seal; the first ones kept no inputs."""
    service = a_service()
    template, given = (
        worker_template(service, Settings(), Role.DECODE),
        inputs(service, Role.DECODE),
    )
    hash = revision_hash(service, Role.DECODE)

    assert is_what_it_says(controller_revision(owner, template, hash, 1, inputs=given))
    assert is_what_it_says(controller_revision(owner, template, hash, 1))
    assert not is_what_it_says(controller_revision(owner, template, "abc", 1, inputs=given))


def test_a_revision_keeps_template_and_inputs(a_service: Any, owner: Any) -> None:
    """What is kept is enough to make the pod again, and to say what differs."""
    service = a_service(rollout={"drainSeconds": 9})
    template = worker_template(service, Settings(), Role.DECODE)

    kept = controller_revision(owner, template, "abc", 3, inputs=inputs(service, Role.DECODE))

    assert kept["metadata"]["name"] == "s-abc"
    assert kept["revision"] == 3
    assert kept["data"] == {
        "template": template,
        "inputs": {"model": {"uri": "file:///m.gguf"}, "rollout": {"drainSeconds": 9}},
        "roles": ["Prefill", "Decode"],
    }
