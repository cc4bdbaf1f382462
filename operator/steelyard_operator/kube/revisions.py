"""The templates that pods are made from, kept as ControllerRevisions.

A template is stored before the first pod of its revision exists, and every pod is made from what is
stored: an operator of another version, or a spec that has moved on, does not change it.

What another author wrote is never a template: content carries a seal that takes the master key.
Those of operators that knew no seal are believed where their service has pods of them and nothing
sealed yet, which is once, right after the upgrade; they are sealed then.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import SEAL_ANNOTATION, Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import is_leftover, owner_words
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import Conflict, NotFound
from steelyard_operator.kube.informer import Held, controller_of
from steelyard_operator.kube.kinds import CONTROLLER_REVISION
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.planning.observed import Revision
from steelyard_operator.render.names import revision_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.revision import (
    controller_revision,
    inputs,
    is_what_it_says,
    sealed_text,
)
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

log = logging.getLogger(__name__)

KEPT_TEMPLATES = 256


class Revisions:
    """Stores templates and finds them again."""

    def __init__(
        self, client: Client, caches: Caches, settings: Settings, master_key: MasterKey
    ) -> None:
        self._client = client
        self._master_key = master_key
        self._caches = caches
        self._settings = settings
        self._templates: OrderedDict[tuple[str, str], Raw] = OrderedDict()

    def of(self, owner: Owner) -> tuple[Revision, ...]:
        """Return the revisions of a service; none of another author."""
        return tuple(held.record for held in self._believed(owner))

    def _believed(self, owner: Owner) -> list[Held[Revision]]:
        found = self._caches.revisions.of(owner.namespace, owner.name)
        ours = [held for held in found if held.controller == owner.uid]
        sealed = [held for held in ours if held.record.sealed]
        return ours if not sealed and self._predates(owner, ours) else sealed

    def _predates(self, owner: Owner, unsealed: list[Held[Revision]]) -> bool:
        """Whether a service has pods of revisions that an operator without seals has stored."""
        pods = self._caches.pods.of(owner.namespace, owner.name)
        made_from = {pod.record.revision for pod in pods if pod.controller == owner.uid}
        return any(held.record.hash in made_from for held in unsealed)

    async def ensure(
        self, owner: Owner, service: InferenceService, wanted: dict[Role, str]
    ) -> str | None:
        """Store the templates that the resource asks for now; make an old one the newest again.

        Returns:
            A sentence where somebody else's object is in the way.
        """
        for held in self._believed(owner):
            if not held.record.sealed:
                await self._seal(owner, held)
        current = set(wanted.values())
        for hash in dict.fromkeys(wanted.values()):
            known = {revision.hash: revision for revision in self.of(owner)}
            others = [r.number for r in known.values() if r.hash not in current]
            highest = max((r.number for r in known.values()), default=0)
            if hash not in known:
                roles = [one for one, other in wanted.items() if other == hash]
                problem = await self._store(owner, service, roles, hash, highest + 1)
                if problem:
                    return problem
            elif known[hash].number <= max(others, default=0):
                await self._renumber(owner, known[hash], highest + 1)
        return None

    async def template(self, owner: Owner, hash: str) -> Raw:
        """Return the template of a revision.

        Raises:
            NotFound: it was deleted, or another was written in its place.
        """
        key = (owner.uid, hash)
        if key not in self._templates:
            name = revision_name(owner.name, hash)
            raw = await self._client.get(CONTROLLER_REVISION, owner.namespace, name)
            if not self._is_ours(owner, raw):
                raise NotFound(f"the ControllerRevision '{name}' was not made by this operator")
            self._remember(key, raw["data"]["template"])
        self._templates.move_to_end(key)
        return self._templates[key]

    async def delete(self, owner: Owner, name: str) -> None:
        """Forget a revision."""
        with contextlib.suppress(NotFound):
            await self._client.delete(CONTROLLER_REVISION, owner.namespace, name)
        for held in self._caches.revisions.of(owner.namespace, owner.name):
            if held.name == name:
                self._caches.revisions.remove(held.uid)

    async def adopt(self, owner: Owner) -> None:
        """Take over revisions that nobody controls: the resource was deleted without them."""
        for held in self._caches.revisions.of(owner.namespace, owner.name):
            if held.controller is None and held.record.sealed:
                operations = adoption(owner, held)
                answer = await self._client.patch(
                    CONTROLLER_REVISION, held.namespace, held.name, operations
                )
                self._caches.revisions.put(answer, silent=True)

    async def _store(
        self, owner: Owner, service: InferenceService, roles: list[Role], hash: str, number: int
    ) -> str | None:
        template = worker_template(service, self._settings, roles[0])
        made_from = inputs(service, roles[0])
        body = controller_revision(
            owner,
            template,
            hash,
            number,
            inputs=made_from,
            roles=roles,
            seal=self._master_key.seal,
        )
        try:
            answer = await self._client.create(CONTROLLER_REVISION, body)
            log.info("%s/%s: stored revision %s", *owner_words(owner), hash)
        except Conflict:
            name = body["metadata"]["name"]
            answer = await self._client.get(CONTROLLER_REVISION, owner.namespace, name)
            controller = controller_of(answer["metadata"])
            if controller.get("uid") not in (None, owner.uid):
                whose = f"{controller['kind']}/{controller['name']}"
                if is_leftover(owner, whose):
                    raise  # The garbage collector is at it; try again soon.
                return f"the ControllerRevision '{name}' is controlled by {whose}; delete it"
            if not is_sealed(self._master_key, answer):
                if controller.get("uid") != owner.uid:
                    return f"the ControllerRevision '{name}' is not this operator's; delete it"
                # Under our name and in ours: it goes, and the next pass stores what is right.
                log.warning("%s/%s: deletes revision %s: it has no seal", *owner_words(owner), hash)
                await self.delete(owner, name)
                raise
        self._caches.revisions.put(answer, silent=True)
        self._remember((owner.uid, hash), answer["data"]["template"])
        return None

    async def _seal(self, owner: Owner, held: Held[Revision]) -> None:
        """Seal what an operator without seals has stored, if it is what its hash says."""
        raw = await self._client.get(CONTROLLER_REVISION, owner.namespace, held.name)
        if not is_what_it_says(raw):
            log.warning("%s/%s: %s is not what its hash says", *owner_words(owner), held.name)
            await self.delete(owner, held.name)
            return
        annotations = raw["metadata"].get("annotations") or {}
        seal = self._master_key.seal(sealed_text(raw))
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": held.uid},
            {
                "op": "test",
                "path": "/metadata/resourceVersion",
                "value": raw["metadata"]["resourceVersion"],
            },
            {
                "op": "add",
                "path": "/metadata/annotations",
                "value": {**annotations, SEAL_ANNOTATION: seal},
            },
        ]
        answer = await self._client.patch(
            CONTROLLER_REVISION, owner.namespace, held.name, operations
        )
        self._caches.revisions.put(answer, silent=True)

    def _is_ours(self, owner: Owner, raw: Raw) -> bool:
        controller = controller_of(raw["metadata"])
        return controller.get("uid") == owner.uid and is_sealed(self._master_key, raw)

    async def _renumber(self, owner: Owner, revision: Revision, number: int) -> None:
        operations = [
            {"op": "test", "path": "/revision", "value": revision.number},
            {"op": "replace", "path": "/revision", "value": number},
        ]
        answer = await self._client.patch(
            CONTROLLER_REVISION, owner.namespace, revision.name, operations
        )
        self._caches.revisions.put(answer, silent=True)

    def _remember(self, key: tuple[str, str], template: Raw) -> None:
        self._templates[key] = template
        while len(self._templates) > KEPT_TEMPLATES:
            self._templates.popitem(last=False)


def is_sealed(master_key: MasterKey, raw: Raw) -> bool:
    """Whether a ControllerRevision shows that an operator with our master key wrote it."""
    annotations = raw["metadata"].get("annotations") or {}
    return master_key.has_sealed(sealed_text(raw), annotations.get(SEAL_ANNOTATION))


def adoption(owner: Owner, held: Held[Any]) -> list[Mapping[str, Any]]:
    """Return the JSON patch that makes us the controller of an object; other owners stay."""
    path, ours = "/metadata/ownerReferences", owner.reference()
    add = (
        {"op": "add", "path": f"{path}/-", "value": ours}
        if held.owned
        else {"op": "add", "path": path, "value": [ours]}
    )
    version = str(held.resource_version)
    return [
        {"op": "test", "path": "/metadata/uid", "value": held.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        add,
    ]
