"""What is kept of the resources: no more than is read of them."""

from typing import Any

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.kube.services import MOST_SPEC_BYTES, Services, read_kept
from steelyard_operator.testing.hostile import hostile_specs

KEY = ("ns", "u")


def resource(spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """A resource as a watch tells of it."""
    return {
        "apiVersion": "steelyard.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            **{"name": "demo", "namespace": "ns", "uid": "u", "generation": 1},
            **{"resourceVersion": "1", **meta},
        },
        "spec": {"model": {"uri": "file:///m"}, **spec},
    }


@pytest.fixture
def services() -> Services:
    """Nothing was seen yet."""
    return Services("", lambda _: None)


def test_annotations_and_managed_fields_are_not_kept(services: Services) -> None:
    """They may hold the whole resource again, and nothing reads them."""
    services.put(resource({}, annotations={"a": "x" * 250_000}, managedFields=[{"a": "b"}]))

    raw = services.get(KEY)
    assert raw is not None
    assert raw["metadata"].keys() == {"name", "namespace", "uid", "generation", "resourceVersion"}


def test_the_largest_resource_of_plain_text_is_kept(services: Services) -> None:
    """A bound in bytes refuses nothing that the CRD means to accept."""
    everything = hostile_specs()[-2]
    everything["prefill"]["podTemplate"] = everything["decode"]["podTemplate"]
    services.put(resource(everything))

    raw = services.get(KEY)
    assert raw is not None
    assert read_kept(raw).metadata.name == "demo"


def test_a_spec_of_too_many_bytes_is_told_and_not_kept(services: Services) -> None:
    """The API server counts characters, which may have four bytes each."""
    services.put(resource({"runtime": {"extraArgs": ["\U0001f600" * (MOST_SPEC_BYTES // 4)]}}))

    raw = services.get(KEY)
    assert raw is not None
    assert raw["spec"] is None
    with pytest.raises(UserError, match="`spec` must have at most 196608 bytes"):
        read_kept(raw)
