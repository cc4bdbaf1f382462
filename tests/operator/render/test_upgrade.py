"""An operator of another version restarts no pod: the hash of what workers are made from stays."""

from pathlib import Path

import pytest
import yaml

from steelyard_operator.api.load import read
from steelyard_operator.api.names import Role
from steelyard_operator.render.revision import revision_hash

SAMPLE = Path(__file__).parents[3] / "manifests/samples/smollm2.yaml"


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_the_hash_of_a_released_resource_never_changes(role: Role) -> None:
    """Where this fails, every worker of every service would be replaced by an upgrade."""
    body = yaml.safe_load(SAMPLE.read_text())
    body["metadata"]["namespace"] = "default"
    assert revision_hash(read(body), role) == "19030dfea2"
