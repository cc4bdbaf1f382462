"""A service's children other than pods: applied where they are not as rendered, left alone else.

An object under our name that somebody else controls is never touched; one that nobody controls and
that carries our label is taken over by the apply. What is rendered is decided elsewhere.
"""

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from steelyard_operator.api.names import APPLIED_ANNOTATION, KIND, SERVICE_LABEL
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.caches import Caches, Child
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import Conflict, NotFound, Refused
from steelyard_operator.kube.informer import Held, controller_of
from steelyard_operator.kube.kinds import Kind, kind_of
from steelyard_operator.render.owner import Owner

log = logging.getLogger(__name__)

Applied = dict[tuple[Kind, str], tuple[str, str]]
"""By kind and name: the hash of what was applied, and the object's stamp afterwards."""


@dataclass(slots=True)
class Outcome:
    """What came of applying."""

    foreign: list[str] = field(default_factory=list)
    """Sentences about objects that are somebody else's."""
    refused: list[str] = field(default_factory=list)
    """What the API server said to objects that it will not have."""
    leftovers: bool = False
    """Objects of a resource of the same name that was deleted are not collected yet."""


class Children:
    """Applies children and remembers how they were afterwards."""

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client = client
        self._caches = caches
        self._applied: dict[str, Applied] = {}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a service that is gone."""
        self._applied.pop(uid, None)

    async def apply(self, owner: Owner, rendered: Sequence[Raw]) -> Outcome:
        """Bring a service's children to what is rendered; delete those that are not any more."""
        applied = self._applied.setdefault(owner.uid, {})
        outcome = Outcome()
        wanted: set[tuple[Kind, str]] = set()
        for body in rendered:
            kind, name = kind_of(body), body["metadata"]["name"]
            wanted.add((kind, name))
            try:
                await self._bring(owner, kind, body, applied, outcome)
            except Refused as error:
                outcome.refused.append(str(error))
            except NotFound:
                outcome.refused.append(
                    f"the cluster does not know the kind {kind.kind} of {kind.group}; "
                    "install its CustomResourceDefinition"
                )
        await self._delete_others(owner, wanted, applied)
        return outcome

    async def _bring(
        self, owner: Owner, kind: Kind, body: Raw, applied: Applied, outcome: Outcome
    ) -> None:
        name = body["metadata"]["name"]
        digest = _digest(body)
        live = self._held(owner, kind, name)
        if live is None:
            # Without our label it is not in the store; and an apply would take it over.
            if not await self._free(owner, kind, name, outcome):
                return
        elif live.controller not in (None, owner.uid):
            _note_other(owner, kind, name, live.controller_name, outcome)
            return
        elif _is_as_applied(live, digest, applied.get((kind, name))):
            applied[kind, name] = (digest, live.record.stamp)
            return
        body = copy.deepcopy(body)
        body["metadata"].setdefault("annotations", {})[APPLIED_ANNOTATION] = digest
        answer = await self._client.apply(kind, body)
        log.info("%s/%s: applied %s %s", owner.namespace, owner.name, kind.kind, name)
        store = self._caches.children[kind]
        store.put(answer, silent=True)
        held = self._held(owner, kind, name)
        if held is not None:
            applied[kind, name] = (digest, held.record.stamp)

    async def _free(self, owner: Owner, kind: Kind, name: str, outcome: Outcome) -> bool:
        """Whether a name is free, or held by an object that waits for an owner like us."""
        try:
            meta = (await self._client.get_metadata(kind, owner.namespace, name))["metadata"]
        except NotFound:
            return True
        controller = controller_of(meta)
        if controller.get("uid") == owner.uid:
            return True
        if not controller and (meta.get("labels") or {}).get(SERVICE_LABEL) == owner.name:
            return True
        other = f"{controller['kind']}/{controller['name']}" if controller else ""
        _note_other(owner, kind, name, other, outcome)
        return False

    async def _delete_others(
        self, owner: Owner, wanted: set[tuple[Kind, str]], applied: Applied
    ) -> None:
        for kind, store in self._caches.children.items():
            for held in store.of(owner.namespace, owner.name):
                if held.controller != owner.uid or (kind, held.name) in wanted:
                    continue
                try:
                    await self._client.delete(kind, held.namespace, held.name, uid=held.uid)
                except (NotFound, Conflict):
                    continue
                log.info("%s/%s: deleted %s %s", *owner_words(owner), kind.kind, held.name)
                applied.pop((kind, held.name), None)

    def _held(self, owner: Owner, kind: Kind, name: str) -> Held[Child] | None:
        found = self._caches.children[kind].of(owner.namespace, owner.name)
        return next((held for held in found if held.name == name), None)


def owner_words(owner: Owner) -> tuple[str, str]:
    """Return how a log line begins."""
    return owner.namespace, owner.name


def is_leftover(owner: Owner, controller_name: str) -> bool:
    """Whether a controller is the resource of the same name that was there before."""
    return controller_name == f"{KIND}/{owner.name}"


def _is_as_applied(live: Held[Child], digest: str, last: tuple[str, str] | None) -> bool:
    if last is not None:
        return last == (digest, live.record.stamp)
    # A new operator remembers nothing; the object says what was applied, and by whom it changed.
    return live.controller is not None and live.record.applied == digest and not live.record.touched


def _note_other(owner: Owner, kind: Kind, name: str, other: str, outcome: Outcome) -> None:
    if is_leftover(owner, other):
        outcome.leftovers = True
        return
    whose = f"is controlled by {other}" if other else "was not made by this operator"
    outcome.foreign.append(
        f"the {kind.kind} '{name}' {whose}; delete or rename it, or name the service differently"
    )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
