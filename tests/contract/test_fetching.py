"""The init container that the operator renders is what `steelyard-runtime fetch` parses."""

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings
from steelyard_operator.testing import a_service
from steelyard_runtime.cli import COMMANDS
from steelyard_runtime.fetch.command import build_parser


@pytest.mark.parametrize("uri", ["hf://org/name@v1", "s3://bucket/a.gguf"])
@pytest.mark.parametrize("cache", ["", "claim"], ids=["own", "cache"])
def test_a_rendered_fetch_is_parsed(uri: str, cache: str) -> None:
    """The URI goes through as it is, and folders are those of the mounts."""
    settings = Settings(model_cache_claim=cache)
    template = worker_template(a_service(model={"uri": uri}), settings, Role.DECODE)
    (container,) = template["spec"]["initContainers"]
    given = build_parser().parse_args(container["args"])
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert container["command"][0] == "steelyard-runtime"
    assert container["command"][1] in COMMANDS
    assert given.uri == uri
    assert {str(folder) for folder in (given.to, given.cache) if folder} <= mounted
    assert (given.cache is not None) == bool(cache)
