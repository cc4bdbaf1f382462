"""The operator and `steelyard-runtime fetch` read one list of hosts, and read it alike."""

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.credential_hosts import SETTING, admits, admits_bucket
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings, from_environment
from steelyard_operator.testing import a_service
from steelyard_runtime.fetch.credential_hosts import DEFAULT, VARIABLE, parse_credential_hosts

HTTPS, HTTP = "https://", "http://"
LISTS = (
    "",
    "huggingface.co,aws",
    "hub.example",
    "*.hub.example",
    "hub.example:8443",
    "http://hub.example",
    "http://hub.example:9000",
    "*",
    "http://hub.example,aws",
    "127.0.0.1",
)
NAMES = """
huggingface.co hub.example eu.hub.example xhub.example hub.example.evil.example hub.example:8443
hub.example:9000 hub.example:443 HUB.example/mirror 127.0.0.1 s3.eu-central-1.amazonaws.com
models.s3.amazonaws.com a.execute-api.us.amazonaws.com s3.amazonaws.com.evil.example
"""
ADDRESSES = tuple(f"{scheme}{name}" for scheme in (HTTPS, HTTP) for name in NAMES.split())


@pytest.mark.parametrize("hosts", LISTS)
def test_both_read_a_list_alike(hosts: str) -> None:
    """What the operator lets through the fetch sends, and nothing else."""
    entries = from_environment({SETTING: hosts}).credential_hosts
    read = parse_credential_hosts(hosts)
    hub = {address: admits(entries, address) for address in ADDRESSES}
    bucket = {address: admits_bucket(entries, address) for address in ADDRESSES}

    assert hub == {address: read.admits(address) for address in ADDRESSES}
    assert bucket == {address: read.admits_bucket(address, "models") for address in ADDRESSES}


def test_a_rendered_list_is_read() -> None:
    """The operator's default is the command's, and reaches it in the variable that it reads."""
    template = worker_template(a_service(model={"uri": "hf://a/b"}), Settings(), Role.DECODE)
    (container,) = template["spec"]["initContainers"]

    assert {"name": VARIABLE, "value": DEFAULT} in container["env"]
    assert ",".join(Settings().credential_hosts) == DEFAULT
