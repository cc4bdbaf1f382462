"""What the kept revisions of a service are, how two differ, and the patch that goes back to one.

A revision is what the workers of a role, or of both, are made from. Its inputs have the resource's
own fields, defaults left out: a field that is not there goes back to its default. Pure.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from steelyard_operator.api.names import REVISION_LABEL, Role
from steelyard_operator.api.operations import RolloutSpec
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.v1alpha1 import ModelSpec, RuntimeSpec
from steelyard_operator.errors import UserError
from steelyard_operator.render.revision import MODEL, ROLE, ROLLOUT, RUNTIME

ROLES = (Role.PREFILL, Role.DECODE)
SHARED = ("model", "runtime", "rollout")
# The fields of each block that make a revision, as the resource writes them.
FIELDS = {
    block: tuple(sorted(str(model.model_fields[name].alias or name) for name in names))
    for block, model, names in (
        ("model", ModelSpec, MODEL),
        ("runtime", RuntimeSpec, RUNTIME),
        ("worker", RoleSpec, ROLE),
        ("rollout", RolloutSpec, ROLLOUT),
    )
}


@dataclass(frozen=True, slots=True)
class Kept:
    """One ControllerRevision."""

    number: int
    hash: str
    created: datetime | None
    roles: tuple[Role, ...]
    inputs: Mapping[str, Any]
    pods: int  # that are made from it

    @property
    def shared(self) -> dict[str, Any]:
        """The part that both roles have in common."""
        return {block: self.inputs.get(block, {}) for block in SHARED}

    @property
    def worker(self) -> Mapping[str, Any]:
        """The part of its role."""
        found: Mapping[str, Any] = self.inputs.get("worker", {})
        return found


def kept(
    raw: Mapping[str, Any],
    pods: Mapping[str, int],
    created: datetime | None,
    current: Mapping[Role, str],
) -> Kept:
    """Return the record of a ControllerRevision.

    Args:
        raw: as the API server has it.
        pods: how many there are, by the revision's hash.
        created: its creation.
        current: the hash that the resource asks for now, by role.
    """
    hash = str(raw["metadata"].get("labels", {}).get(REVISION_LABEL, ""))
    data = raw.get("data") or {}
    # It says whose it was when it was stored, those of the first releases nothing.
    named = data.get("roles", [role.value for role in ROLES])
    roles = tuple(role for role in ROLES if role.value in named or current.get(role) == hash)
    return Kept(
        int(raw.get("revision") or 0),
        hash,
        created,
        roles,
        data.get("inputs") or {},
        pods.get(hash, 0),
    )


def find(revisions: Sequence[Kept], number: int) -> Kept:
    """Return the revision of this number.

    Raises:
        UserError: it is not kept.
    """
    for revision in revisions:
        if revision.number == number:
            return revision
    numbers = ", ".join(str(one) for one in sorted(each.number for each in revisions)) or "none"
    raise UserError(f"there is no revision {number}; kept are: {numbers}")


def history(
    revisions: Sequence[Kept], current: Mapping[Role, str], now: datetime
) -> list[dict[str, Any]]:
    """Return one row a revision, the oldest first.

    Args:
        revisions: in any order.
        current: the hash that the resource asks for now, by role.
        now: for the ages.
    """
    return [
        {
            "revision": revision.number,
            "hash": revision.hash,
            "roles": [role.value for role in revision.roles],
            "current": [role.value for role in ROLES if current[role] == revision.hash],
            "pods": revision.pods,
            "age_seconds": None
            if revision.created is None
            else int((now - revision.created).total_seconds()),
        }
        for revision in sorted(revisions, key=lambda one: one.number)
    ]


def difference(old: Kept, new: Kept) -> list[str]:
    """Return a unified diff of what two revisions are made from; nothing where they are alike."""
    return list(
        difflib.unified_diff(
            _lines(old.inputs),
            _lines(new.inputs),
            f"revision {old.number}",
            f"revision {new.number}",
            lineterm="",
        )
    )


def before(revisions: Sequence[Kept], newer: Kept) -> Kept:
    """Return the revision that a newer one replaced.

    Raises:
        UserError: nothing older is kept.
    """
    older = [
        one
        for one in revisions
        if one.number < newer.number
        and set(one.roles) & set(newer.roles)
        and one.inputs != newer.inputs
    ]
    if not older:
        raise UserError(f"there is no revision older than {newer.number} to go back to")
    return max(older, key=lambda one: one.number)


def latest(revisions: Sequence[Kept], current: Mapping[Role, str]) -> Kept:
    """Return the newest revision that the resource asks for now.

    Raises:
        UserError: the operator has not stored it yet.
    """
    asked = [one for one in revisions if one.hash in current.values()]
    if not asked:
        raise UserError("the operator has not stored what the resource asks for now; try again")
    return max(asked, key=lambda one: one.number)


def undo(
    resource: Mapping[str, Any],
    revisions: Sequence[Kept],
    current: Mapping[Role, str],
    target: Kept,
) -> list[dict[str, Any]]:
    """Return the JSON patch that makes the resource ask for a revision again.

    Where the part that both roles have in common changes with it, the other role goes back to what
    it had then.

    Args:
        resource: as the API server has it.
        revisions: all that are kept.
        current: the hash that the resource asks for now, by role.
        target: the one to go back to.

    Raises:
        UserError: the revision does not say what it was made from.
    """
    if "uri" not in target.shared["model"]:
        raise UserError(f"revision {target.number} does not keep what it was made from")
    spec = resource["spec"]
    workers: dict[Role, Mapping[str, Any]] = dict.fromkeys(target.roles, target.worker)
    for role in ROLES:
        mine = [one for one in revisions if role in one.roles]
        stays = any(one.hash == current[role] and one.shared == target.shared for one in mine)
        then = [one for one in mine if one.shared == target.shared]
        if role not in workers and then and not stays:
            workers[role] = min(then, key=lambda one: abs(one.number - target.number)).worker
    changes = [
        *(_block(spec, block, FIELDS[block], target.shared[block]) for block in SHARED),
        *(
            _block(spec, role.wire, FIELDS["worker"], worker)
            for role, worker in sorted(workers.items())
        ),
    ]
    version = resource["metadata"]["resourceVersion"]
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        *(operation for change in changes for operation in change),
    ]


def _block(
    spec: Mapping[str, Any], name: str, fields: Sequence[str], wanted: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the operations that give one block of the spec these fields and no others of them."""
    found = spec.get(name) or {}
    path = f"/spec/{name}"
    added = [
        {"op": "add", "path": f"{path}/{field}", "value": wanted[field]}
        for field in fields
        if field in wanted and found.get(field) != wanted[field]
    ]
    removed = [
        {"op": "remove", "path": f"{path}/{field}"}
        for field in fields
        if field in found and field not in wanted
    ]
    if added and not spec.get(name):
        return [{"op": "add", "path": path, "value": dict(wanted)}]
    return added + removed


def _lines(inputs: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(dict(inputs), sort_keys=True).splitlines()
