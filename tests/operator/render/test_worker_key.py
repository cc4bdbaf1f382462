"""Workers ask for a key where every router has it; an upgrade locks no router out."""

import copy
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.render.names import token_secret_name, worker_key_secret_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.render.router import router_deployment
from steelyard_operator.render.secret import token_secret, worker_key_secret
from steelyard_operator.render.template import worker_template
from steelyard_operator.render.worker_key import key_secret, routers_key
from steelyard_operator.settings import Settings

UID = "5f0c3a1b-7d6e-4b2f-9a55-0123456789ab"
KEY = "s-worker-key-5f0c3a1b"
FILE = "/var/run/steelyard/worker-key/key"
HERE, BEFORE = Owner("s", "team", UID), Owner("s", "team", "0" * 36)


def of_an_older_operator(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the Deployment as an operator made it that knew no key."""
    found = copy.deepcopy(deployment)
    text = found["metadata"]["annotations"]["steelyard.dev/template"]
    found["metadata"]["annotations"]["steelyard.dev/template"] = text.replace(
        '"worker-key"', '"other"'
    )
    return found


@pytest.fixture
def router(a_service: Any) -> dict[str, Any]:
    """The routers' Deployment of a new service."""
    return router_deployment(HERE, a_service(), Settings())


@pytest.mark.parametrize(
    ("pods", "key"),
    [
        ([], KEY),
        ([KEY, KEY], KEY),
        ([KEY, None], None),
        ([None], None),
        (["s-worker-key-00000000", KEY], None),
    ],
    ids=["no router yet", "all have it", "one ends without", "all older", "one has another"],
)
def test_the_key_is_asked_for_where_every_router_has_it(
    router: dict[str, Any], pods: list[str | None], key: str | None
) -> None:
    """A single router that would be locked out keeps new workers open."""
    assert routers_key(router, pods) == key


def test_no_key_is_asked_for_while_the_routers_are_those_of_an_older_operator(
    router: dict[str, Any],
) -> None:
    """What the Deployment keeps counts, whatever pods there are at the moment."""
    older = of_an_older_operator(router)

    assert routers_key(older, []) is None
    assert routers_key(older, [KEY]) is None
    assert routers_key(None, []) is None


def test_an_upgrade_keeps_routers_without_a_key(a_service: Any, router: dict[str, Any]) -> None:
    """The key comes with the next template that the resource asks for."""
    older = of_an_older_operator(router)

    kept = router_deployment(HERE, a_service(), Settings(), older)
    changed = router_deployment(HERE, a_service(rollout={"drainSeconds": 9}), Settings(), older)
    assert key_secret(kept["spec"]["template"]["spec"]) is None
    assert key_secret(changed["spec"]["template"]["spec"]) == KEY


def test_routers_show_the_key_that_living_workers_know(a_service: Any) -> None:
    """A service made again over what it left behind goes on with the key from before."""
    left = router_deployment(BEFORE, a_service(), Settings())
    changed = router_deployment(HERE, a_service(rollout={"drainSeconds": 9}), Settings(), left)

    assert key_secret(changed["spec"]["template"]["spec"]) == "s-worker-key-00000000"
    assert routers_key(changed, []) == "s-worker-key-00000000"


def pod(service: Any, worker_key: str | None) -> dict[str, Any]:
    """Return a worker's pod."""
    template = worker_template(service, Settings(), Role.DECODE)
    return worker_pod(
        HERE,
        template,
        slot=0,
        role=Role.DECODE,
        revision="r",
        attempt=0,
        settings=Settings(),
        worker_key=worker_key,
    )


def test_a_worker_reads_the_key_from_a_file(a_service: Any) -> None:
    """Before all other flags, so that what a resource adds still wins."""
    engine = pod(a_service(), KEY)["spec"]["containers"][0]

    assert engine["args"][:2] == ["--api-key-file", FILE]
    assert "worker-key" in {mount["name"] for mount in engine["volumeMounts"]}


def test_vllm_reads_the_key_from_its_environment(a_service: Any) -> None:
    """Never from the command line; a value that the resource gives does not stand in its way."""
    env = [{"name": "VLLM_API_KEY", "value": "mine"}]
    spec = pod(a_service(runtime={"backend": "VLLM", "env": env}), KEY)["spec"]

    given = [one for one in spec["containers"][0]["env"] if one["name"] == "VLLM_API_KEY"]
    assert given == [
        {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": KEY, "key": "key"}}}
    ]
    assert "--api-key" not in str(spec["containers"][0]["args"])


def test_only_the_engine_gets_the_key(a_service: Any) -> None:
    """What fetches a checkpoint has no business with it."""
    spec = pod(a_service(model={"uri": "hf://a/b"}), KEY)["spec"]

    assert "worker-key" not in str(spec["initContainers"])


def test_a_worker_without_a_key_is_as_it_was(a_service: Any) -> None:
    """The template is the same for both, so a revision does not change."""
    assert "worker-key" not in str(pod(a_service(), None))
    assert "worker-key" not in str(worker_template(a_service(), Settings(), Role.DECODE))


def test_the_key_opens_nothing_but_the_serving_port() -> None:
    """It is another one than the token, in a Secret of its own, and other for each service."""
    keys = MasterKey(b"k" * 32)

    assert len({keys.token(UID), keys.worker_key(UID), keys.worker_key(BEFORE.uid)}) == 3
    assert worker_key_secret(HERE, "x")["metadata"]["name"] == worker_key_secret_name("s", UID)
    assert token_secret(HERE, "x")["metadata"]["name"] == token_secret_name("s", UID)
    assert worker_key_secret_name("s", UID) != token_secret_name("s", UID)
