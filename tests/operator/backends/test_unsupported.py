"""What a backend cannot do is said in one sentence, before a pod is made."""

from typing import Any

import pytest

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.registry import unsupported

TWO = {"tensorParallel": 2}
STRANGER = {"podTemplate": {"spec": {"containers": [{"name": "sidecar"}]}}}
CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "nothing": ({}, None),
    "ranks on Native": (
        {"prefill": TWO, "decode": TWO},
        "`spec.prefill.tensorParallel` must be 1 with the backend 'Native' of this version, got 2",
    ),
    "ranks on vLLM": ({"prefill": TWO, "decode": TWO, "runtime": {"backend": "VLLM"}}, None),
    "a package on vLLM": (
        {"model": {"uri": "package://a/b"}, "runtime": {"backend": "VLLM"}},
        "`spec.model.uri` must be hf://, s3://, pvc://, oci:// or file:// with the backend 'VLLM', "
        "got 'package://a/b'",
    ),
    "a container that is not there": (
        {"prefill": STRANGER, "decode": STRANGER},
        "`spec.prefill.podTemplate.spec.containers` has 'sidecar'; must be one of: engine, model",
    ),
}


@pytest.mark.parametrize(("spec", "sentence"), CASES.values(), ids=CASES)
def test_what_is_not_supported_is_a_sentence(spec: dict[str, Any], sentence: str | None) -> None:
    """The sentence names the field, what was given and what is allowed."""
    service = InferenceService.model_validate(
        {
            "apiVersion": "steelyard.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "s"},
            "spec": {"model": {"uri": "hf://org/name"}, **spec},
        }
    )

    assert unsupported(service) == sentence
