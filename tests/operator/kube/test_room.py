"""How many pods of a namespace are in creation: growth is bounded, repair is not behind it."""

from dataclasses import replace
from typing import Any

import pytest

from steelyard_operator.api.names import SERVICE_LABEL
from steelyard_operator.kube.informer import Store
from steelyard_operator.kube.queue import Key
from steelyard_operator.kube.room import FIRST, GROWING, STARTING, Room
from steelyard_operator.planning.observed import Pod
from steelyard_operator.testing import pod

GREEDY, GOOD, NEW = ("ns", "greedy"), ("ns", "good"), ("ns", "new")
STARTS = replace(pod(0), phase="Pending", ready=False)
SERVES = replace(pod(0), ready=True)


class Rig:
    """A namespace whose pods the test sets, and what was woken."""

    def __init__(self) -> None:
        self.now = 0.0
        self.woken: list[Key] = []
        self.records: dict[str, Pod] = {}
        self.store: Store[Pod] = Store(
            lambda raw: self.records[raw["metadata"]["uid"]], label=SERVICE_LABEL
        )
        self.room = Room(self.store, wake=self.woken.append, clock=lambda: self.now)

    def there(self, count: int, record: Pod, namespace: str = "ns") -> None:
        """Have so many pods of a kind, beside those that there are."""
        for _ in range(count):
            number = len(self.records)
            uid = f"{number}"
            self.records[uid] = replace(record, uid=uid)
            meta: dict[str, Any] = {"uid": uid, "name": uid, "namespace": namespace}
            self.store.put({"metadata": {**meta, "resourceVersion": "1"}})
        self.now += 1

    def gone(self) -> None:
        """Have no pods any more."""
        for uid in self.records:
            self.store.remove(uid)
        self.now += 1


@pytest.fixture
def rig() -> Rig:
    """A namespace without pods."""
    return Rig()


def test_growth_is_bounded_over_all_services_of_a_namespace(rig: Rig) -> None:
    """What was granted counts at once, before any pod is there; each namespace for itself."""
    granted = [rig.room.grant(("ns", f"{n}"), (), 64) for n in range(10)]

    assert sum(granted[:4]) == GROWING
    assert granted[4:] == [FIRST] * 6
    assert rig.room.grant(("other", "a"), (), 64) == 64


def test_new_services_begin_until_there_are_very_many(rig: Rig) -> None:
    """A thousand hostile resources do not add up without end."""
    rig.there(STARTING, STARTS)

    assert rig.room.grant(NEW, (), 2) == 0


def test_a_service_that_serves_is_repaired_whatever_others_do(rig: Rig) -> None:
    """Its lost pod does not stand behind the growth of others; nor does all that it had lose."""
    rig.there(10 * STARTING, STARTS)

    assert rig.room.grant(GOOD, [SERVES], 1) == 1
    assert rig.room.grant(GOOD, [SERVES] * 40 + [STARTS] * 10, 64) == 30
    assert rig.room.grant(GOOD, [], 5) == FIRST  # it has served, as this process saw


def test_one_that_waited_is_woken_when_there_is_room(rig: Rig) -> None:
    """By the next pass over any service of the namespace, the longest waiting first."""
    rig.there(STARTING, STARTS)
    for key in (GREEDY, NEW):
        assert rig.room.grant(key, (), 64) == 0
    assert rig.woken == []

    rig.gone()
    rig.room.grant(GOOD, [SERVES], 0)

    assert rig.woken == [GREEDY, NEW]


def test_pods_that_serve_end_or_have_ended_take_no_room(rig: Rig) -> None:
    """They cost what they cost; it is those that do not serve yet that may be endless."""
    rig.there(GROWING, SERVES)
    rig.there(GROWING, replace(STARTS, deleting=True))
    rig.there(GROWING, replace(STARTS, phase="Failed"))

    assert rig.room.grant(GREEDY, (), 64) == 64
