"""Revisions as records: what is listed, how two differ, and the patch that goes back to one."""

from datetime import timedelta
from typing import Any

import pytest

from steelyard_operator.api.load import read
from steelyard_operator.api.names import REVISION_LABEL, Role
from steelyard_operator.errors import UserError
from steelyard_operator.render.revision import hash_of, inputs
from steelyard_operator.rollouts.history import (
    ROLES,
    Kept,
    before,
    difference,
    find,
    history,
    kept,
    latest,
    undo,
)
from steelyard_operator.testing import NOON

BOTH = ("Prefill", "Decode")


def revision(number: int, made_from: dict[str, Any], roles: tuple[str, ...] = BOTH) -> Kept:
    labels = {REVISION_LABEL: hash_of(made_from)}
    data = {"inputs": made_from, "roles": list(roles)}
    raw = {"metadata": {"labels": labels}, "revision": number, "data": data}
    return kept(raw, {}, NOON, {})


def resource(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "s", "namespace": "n", "resourceVersion": "7"},
        "spec": {"model": {"uri": "file:///m"}, "rebalancing": {"flip": "Disabled"}, **spec},
    }


def patched(document: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The document after a patch of `test`, `add` and `remove` on mappings."""
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    for operation in operations[1:]:
        *way, last = operation["path"].split("/")[1:]
        place = document
        for name in way:
            place = place[name]
        if operation["op"] == "add":
            place[last] = operation["value"]
        else:
            del place[last]
    return document


def asked(document: dict[str, Any]) -> dict[Role, dict[str, Any]]:
    """What the workers of each role would be made from."""
    whole = {"apiVersion": "steelyard.dev/v1alpha1", "kind": "InferenceService", **document}
    return {role: inputs(read(whole), role) for role in ROLES}


def current(*revisions: Kept) -> dict[Role, str]:
    """The hashes that are asked for: of one revision for both roles, or one each."""
    return {Role.PREFILL: revisions[0].hash, Role.DECODE: revisions[-1].hash}


def test_a_history_is_in_order_and_says_what_is_asked_for() -> None:
    """Numbers, roles, pods and ages, the oldest first."""
    old, new = revision(1, {"model": {"uri": "file:///a"}}), revision(2, {})
    rows = history([new, old], current(new), NOON + timedelta(seconds=90))

    assert [(row["revision"], row["current"], row["age_seconds"]) for row in rows] == [
        (1, [], 90),
        (2, ["Prefill", "Decode"], 90),
    ]


def test_a_difference_has_the_fields_of_the_resource() -> None:
    """As a unified diff, the older one first; nothing where both are alike."""
    old = revision(1, {"model": {"uri": "file:///a"}})
    new = revision(2, {"model": {"uri": "file:///b"}})

    assert difference(old, new) == [
        "--- revision 1",
        "+++ revision 2",
        "@@ -1,2 +1,2 @@",
        " model:",
        "-  uri: file:///a",
        "+  uri: file:///b",
    ]
    assert difference(old, old) == []


def test_going_back_restores_fields_and_takes_away_new_ones() -> None:
    """Also where the API server wrote defaults; what makes no revision stays as it is."""
    old = revision(1, {"model": {"uri": "file:///a"}, "worker": {"priorityClassName": "p1"}})
    document = resource(
        model={"uri": "file:///b", "maxModelLen": 100, "name": "stays"},
        runtime={"backend": "Native", "extraArgs": ["--x"]},
        prefill={"replicas": 3, "priorityClassName": "p2"},
        decode={"replicas": 4, "priorityClassName": "p2"},
    )
    del document["spec"]["model"]["name"]
    new = revision(2, asked(document)[Role.PREFILL])

    after = patched(document, undo(document, [old, new], current(new), old))

    assert asked(after) == dict.fromkeys(ROLES, old.inputs)
    assert (after["spec"]["prefill"]["replicas"], after["spec"]["decode"]["replicas"]) == (3, 4)


def test_going_back_adds_a_block_that_is_gone() -> None:
    """A resource without `runtime` gets it again."""
    old = revision(1, {"model": {"uri": "file:///m"}, "runtime": {"image": "i:1"}})
    document = resource()
    new = revision(2, asked(document)[Role.PREFILL])

    after = patched(document, undo(document, [old, new], current(new), old))

    assert asked(after)[Role.DECODE] == old.inputs


def of_role(model: str, priority: str) -> dict[str, Any]:
    return {"model": {"uri": f"file:///{model}"}, "worker": {"priorityClassName": f"p{priority}"}}


def test_a_change_of_one_role_is_undone_alone() -> None:
    """The other role keeps what it has, also where it once had something else."""
    first = revision(1, of_role("m", "1"), ("Prefill",))
    decode = [
        revision(2, of_role("m", "2"), ("Decode",)),
        revision(3, of_role("m", "3"), ("Decode",)),
    ]
    second = revision(4, of_role("m", "4"), ("Prefill",))
    document = resource(prefill={"priorityClassName": "p4"}, decode={"priorityClassName": "p3"})
    now, every = current(second, decode[1]), [first, *decode, second]

    target = before(every, latest(every, now))
    after = patched(document, undo(document, every, now, target))

    assert target.number == 1
    assert asked(after) == {Role.PREFILL: of_role("m", "1"), Role.DECODE: of_role("m", "3")}


def test_a_change_of_both_roles_is_undone_in_both() -> None:
    """A new model made two revisions; going back over one of them takes the other with it."""
    every = [
        revision(1, of_role("a", "1"), ("Prefill",)),
        revision(2, of_role("a", "2"), ("Decode",)),
        revision(3, of_role("b", "1"), ("Prefill",)),
        revision(4, of_role("b", "9"), ("Decode",)),
    ]
    document = resource(
        model={"uri": "file:///b"},
        prefill={"priorityClassName": "p1"},
        decode={"priorityClassName": "p9"},
    )
    now = current(every[2], every[3])

    target = before(every, latest(every, now))
    after = patched(document, undo(document, every, now, target))

    assert target.number == 2
    assert asked(after) == {Role.PREFILL: of_role("a", "1"), Role.DECODE: of_role("a", "2")}


def test_a_revision_of_an_older_release_is_of_both_roles() -> None:
    """It does not say whose it is."""
    raw = {"metadata": {"labels": {REVISION_LABEL: "x"}}, "revision": 1, "data": {}}

    assert kept(raw, {"x": 2}, None, {}).roles == (Role.PREFILL, Role.DECODE)
    assert kept(raw, {"x": 2}, None, {}).pods == 2


def test_a_revision_that_another_role_asks_for_is_also_its_own() -> None:
    """It was stored for one role, and the other one was changed to the same later."""
    raw = {
        "metadata": {"labels": {REVISION_LABEL: "x"}},
        "revision": 1,
        "data": {"roles": ["Decode"]},
    }

    assert kept(raw, {}, None, {Role.PREFILL: "y"}).roles == (Role.DECODE,)
    assert kept(raw, {}, None, {Role.PREFILL: "x"}).roles == (Role.PREFILL, Role.DECODE)


def test_what_is_not_kept_is_one_sentence() -> None:
    """The sentence says what is."""
    only = revision(3, {"model": {"uri": "file:///a"}})
    with pytest.raises(UserError, match="there is no revision 9; kept are: 3"):
        find([only], 9)
    with pytest.raises(UserError, match="no revision older than 3 to go back to"):
        before([only], only)
    with pytest.raises(UserError, match="revision 4 does not keep what it was made from"):
        undo(resource(), [only], current(only), revision(4, {}))
    with pytest.raises(UserError, match="has not stored what the resource asks for"):
        latest([only], {Role.PREFILL: "y", Role.DECODE: "y"})
