"""One namespace that refuses the operator stops no other."""

import asyncio
from typing import Any

import pytest

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.errors import Refused, Unreachable
from steelyard_operator.kube.rights import Rights

pytestmark = pytest.mark.anyio


class Api:
    """An API server in which some namespaces refuse, and some cannot be asked."""

    def __init__(self, *refusing: str) -> None:
        self.refusing = set(refusing)
        self.away: set[str] = set()
        self.asked = 0

    async def list_pages(self, _kind: Any, namespace: str, **_: Any) -> Any:
        """Answer with nothing, or refuse."""
        self.asked += 1
        if namespace in self.refusing:
            raise Refused("no")
        if namespace in self.away:
            raise Unreachable("away")
        yield [], "1"


def rights(api: Any, *namespaces: str, life: float = 0.0) -> Rights:
    """Return rights that are asked for all the time."""
    return Rights(api, namespaces, check_seconds=0.001, shortest_life_seconds=life)


async def test_what_refuses_is_left_out() -> None:
    """The others are served."""
    found = rights(Api("b"), "a", "b", "c")
    await found.read()

    assert found.served == ("a", "c")


@pytest.mark.parametrize("api", [Api("a", "b"), Api()])
async def test_none_is_left_out_where_all_refuse_or_none_does(api: Api) -> None:
    """Without any right the operator waits, as it does with a single namespace."""
    found = rights(api, "a", "b")
    await found.read()

    assert found.served == ("a", "b")


async def test_a_namespace_that_cannot_be_asked_is_served() -> None:
    """An API server that is away says nothing about rights."""
    api = Api()
    api.away = {"a"}
    found = rights(api, "a", "b")
    await found.read()

    assert found.served == ("a", "b")


async def test_one_namespace_is_never_asked_about() -> None:
    """There is nothing to leave out, and `keep` goes on for ever."""
    api = Api("a")
    found = rights(api, "a")
    await found.read()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.keep(), 0.05)

    assert (found.served, api.asked) == (("a",), 0)


async def test_rights_that_come_back_begin_the_process_anew() -> None:
    """For one that was left out, and for one that refused meanwhile."""
    api = Api("b")
    found = rights(api, "a", "b")
    await found.read()
    api.refusing.clear()

    with pytest.raises(OperatorError, match="the namespace b lets us in again"):
        await asyncio.wait_for(found.keep(), 10)


async def test_rights_that_went_while_another_led_begin_the_process_anew() -> None:
    """What cannot be listed would keep the caches of all from being filled."""
    api = Api()
    found = rights(api, "a", "b")
    await found.read()
    api.refusing = {"b"}

    with pytest.raises(OperatorError, match="the namespace b refuses us by now"):
        await asyncio.wait_for(found.keep(), 10)


async def test_whoever_gives_and_takes_rights_does_not_end_the_process_again_and_again() -> None:
    """It lives for a while at least."""
    api = Api("b")
    found = rights(api, "a", "b", life=3600.0)
    await found.read()
    api.refusing.clear()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.keep(), 0.1)
