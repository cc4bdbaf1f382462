"""What a store holds after answers, events and listings in any order."""

from typing import Any

import pytest

from steelyard_operator.kube.informer import Held, Store

LABEL = "steelyard.dev/service"


def raw(version: int, uid: str = "u", service: str = "demo", **meta: Any) -> dict[str, Any]:
    """An object, as the API server sends it."""
    return {
        "metadata": {
            "name": f"demo-{uid}",
            "namespace": "ns",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {LABEL: service},
            **meta,
        }
    }


@pytest.fixture
def heard() -> list[str]:
    """The uids that the store told of."""
    return []


@pytest.fixture
def store(heard: list[str]) -> Store[int]:
    """A store of resource versions."""

    def changed(held: Held[int]) -> None:
        heard.append(held.uid)

    return Store(
        lambda found: int(found["metadata"]["resourceVersion"]), label=LABEL, changed=changed
    )


def test_an_older_event_does_not_undo_our_own_write(store: Store[int], heard: list[str]) -> None:
    """The answer to a write is newer than the event that was on its way."""
    store.put(raw(1))
    store.put(raw(5), silent=True)
    store.put(raw(3))

    assert [held.record for held in store.of("ns", "demo")] == [5]
    assert heard == ["u"]


def test_an_answer_after_the_end_makes_no_ghost(store: Store[int]) -> None:
    """A patch's answer that arrives after the DELETED event is dropped."""
    store.put(raw(1))
    store.remove("u", 4)
    store.put(raw(3), silent=True)

    assert store.of("ns", "demo") == ()


def test_an_object_that_lost_its_label_may_come_back(store: Store[int]) -> None:
    """Its watch says DELETED, although it is there; with the label it is ours again."""
    store.put(raw(1))
    store.remove("u", 4)
    store.put(raw(5), silent=True)

    assert [held.record for held in store.of("ns", "demo")] == [5]


def test_a_listing_keeps_what_is_younger_than_itself(store: Store[int]) -> None:
    """A pod that was created while pages were read is not in them, and is not gone."""
    store.put(raw(1, "old"))
    store.put(raw(9, "young"), silent=True)
    store.keep_only(set(), listed_at=5)

    assert [held.uid for held in store.of("ns", "demo")] == ["young"]


def test_a_listing_of_one_namespace_says_nothing_of_others(store: Store[int]) -> None:
    """An operator of several namespaces lists each on its own."""
    store.put(raw(1, "here"))
    store.keep_only(set(), 5, "elsewhere")
    assert [held.uid for held in store.of("ns", "demo")] == ["here"]

    store.keep_only(set(), 5, "ns")
    assert store.of("ns", "demo") == ()


def test_an_object_that_changes_its_label_moves(store: Store[int]) -> None:
    """It is listed under the service that it names now."""
    store.put(raw(1))
    store.put(raw(2, service="other"))

    assert (len(store.of("ns", "demo")), len(store.of("ns", "other"))) == (0, 1)


def test_an_object_of_foreign_form_is_left_out() -> None:
    """A record that cannot be made stops nothing."""
    store: Store[int] = Store(lambda found: int(found["spec"]), label=LABEL)

    assert not store.put(raw(1))
    assert store.of("ns", "demo") == ()


def test_the_controller_is_the_owner_that_controls(store: Store[int]) -> None:
    """Other owners are no controllers."""
    owners = [
        {"uid": "a", "kind": "X", "name": "x"},
        {"uid": "b", "kind": "Job", "name": "j", "controller": True},
    ]
    store.put(raw(1, ownerReferences=owners))

    (held,) = store.of("ns", "demo")
    assert (held.controller, held.controller_name) == ("b", "Job/j")


@pytest.mark.parametrize("error", [RecursionError(), MemoryError(), OverflowError(), KeyError("a")])
def test_an_object_that_cannot_be_read_ends_no_watch(error: Exception) -> None:
    """It is left out, whatever its reading raised; those after it are read."""
    errors = [error]

    def convert(raw: dict[str, Any]) -> int:
        if errors:
            raise errors.pop()
        return 1

    store: Store[int] = Store(convert, label="steelyard.dev/service")

    assert not store.put(raw(1, "bad"))
    assert store.put(raw(1, "good"))
