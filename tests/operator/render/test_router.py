"""The router's Deployment: an upgrade restarts nothing, drift and changes are put right."""

import copy
from typing import Any

from steelyard_operator.render.router import router_deployment
from steelyard_operator.settings import Settings

OLD, NEW = Settings(), Settings(router_image="steelyard-router:next")


def image(deployment: dict[str, Any]) -> str:
    """The image of the routers."""
    found: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


def test_an_upgraded_operator_keeps_the_template(a_service: Any, owner: Any) -> None:
    """The same resource, another operator: the applied Deployment is the same."""
    live = router_deployment(owner, a_service(), OLD)

    assert router_deployment(owner, a_service(), NEW, live) == live


def test_what_somebody_changed_is_put_right(a_service: Any, owner: Any) -> None:
    """The kept template is what the operator gave, not what stands there."""
    given = router_deployment(owner, a_service(), OLD)
    live = copy.deepcopy(given)
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "mine"

    assert router_deployment(owner, a_service(), NEW, live) == given


def test_a_change_of_the_resource_takes_the_new_template(a_service: Any, owner: Any) -> None:
    """A rollout that has to be brings what the new operator renders."""
    live = router_deployment(owner, a_service(), OLD)
    changed = a_service(rollout={"drainSeconds": 31})

    assert image(router_deployment(owner, changed, NEW, live)) == "steelyard-router:next"


def test_more_routers_are_no_new_template(a_service: Any, owner: Any) -> None:
    """Scaling restarts nothing."""
    live = router_deployment(owner, a_service(), OLD)
    more = router_deployment(owner, a_service(router={"replicas": 5}), NEW, live)

    assert more["spec"]["replicas"] == 5
    assert more["spec"]["template"] == live["spec"]["template"]


def test_an_annotation_that_is_damaged_is_no_template(a_service: Any, owner: Any) -> None:
    """Whatever stands there, a router is rendered."""
    live = router_deployment(owner, a_service(), OLD)
    live["metadata"]["annotations"]["steelyard.dev/template"] = "{"

    assert image(router_deployment(owner, a_service(), NEW, live)) == "steelyard-router:next"
