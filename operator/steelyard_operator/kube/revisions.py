"""The templates that pods are made from, kept as ControllerRevisions.

A template is stored before the first pod of its revision exists, and every pod is made from what is
stored: an operator of another version, or a spec that has moved on, does not change it.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import is_leftover, owner_words
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import Conflict, NotFound
from steelyard_operator.kube.informer import Held, controller_of
from steelyard_operator.kube.kinds import CONTROLLER_REVISION
from steelyard_operator.planning.observed import Revision
from steelyard_operator.render.names import revision_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.revision import controller_revision, inputs
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

log = logging.getLogger(__name__)

KEPT_TEMPLATES = 256


class Revisions:
    """Stores templates and finds them again."""

    def __init__(self, client: Client, caches: Caches, settings: Settings) -> None:
        self._client = client
        self._caches = caches
        self._settings = settings
        self._templates: OrderedDict[tuple[str, str], Raw] = OrderedDict()

    def of(self, owner: Owner) -> tuple[Revision, ...]:
        """Return the revisions of a service."""
        found = self._caches.revisions.of(owner.namespace, owner.name)
        return tuple(held.record for held in found if held.controller == owner.uid)

    async def ensure(
        self, owner: Owner, service: InferenceService, wanted: dict[Role, str]
    ) -> str | None:
        """Store the templates that the resource asks for now; make an old one the newest again.

        Returns:
            A sentence where somebody else's object is in the way.
        """
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
            NotFound: somebody deleted it.
        """
        key = (owner.uid, hash)
        if key not in self._templates:
            name = revision_name(owner.name, hash)
            raw = await self._client.get(CONTROLLER_REVISION, owner.namespace, name)
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
            if held.controller is None:
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
        body = controller_revision(owner, template, hash, number, inputs=made_from, roles=roles)
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
        self._caches.revisions.put(answer, silent=True)
        self._remember((owner.uid, hash), answer["data"]["template"])
        return None

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
