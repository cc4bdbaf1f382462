"""The largest resource that the CRD takes fits into what the API server and etcd take."""

import json
from typing import Any

import pytest

from steelyard_operator.api.load import read
from steelyard_operator.api.maxima import MOST_TEXT
from steelyard_operator.api.names import Role
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings
from steelyard_operator.testing.hostile import hostile_specs

ETCD_BYTES = 1_500_000


def escaped(value: Any) -> Any:
    """Return a value whose long texts take six bytes a character as JSON."""
    if isinstance(value, dict):
        return {key: escaped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escaped(one) for one in value]
    return value.replace("x", "\u0001") if isinstance(value, str) and len(value) > 500 else value


@pytest.mark.parametrize("change", [escaped, lambda spec: spec], ids=["escaped", "plain"])
def test_the_largest_resource_and_its_pods_fit_into_etcd(change: Any) -> None:
    """A pod, a revision and the resource are one object each there, and none may be refused."""
    everything, _ = hostile_specs()[-2:]
    everything["prefill"]["podTemplate"] = everything["decode"]["podTemplate"]
    spec = change(everything)
    meta = {"name": "n" * 40}
    api = {"apiVersion": "steelyard.dev/v1alpha1", "kind": "InferenceService"}
    service = read({**api, "metadata": meta, "spec": spec})

    pods = [worker_template(service, Settings(), role) for role in (Role.PREFILL, Role.DECODE)]

    sizes = [len(json.dumps(one)) for one in (spec, *pods)]
    assert sizes[0] > MOST_TEXT
    assert max(sizes) < ETCD_BYTES
