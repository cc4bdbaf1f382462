"""What a pass reads instead of asking the API server: all informers together, by kind.

Pods, Deployments and ControllerRevisions are read whole and kept slim; of the other owned kinds
only metadata is read. Secrets are not read at all.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from steelyard_operator.api.names import (
    APPLIED_ANNOTATION,
    COMPONENT_LABEL,
    FIELD_MANAGER,
    GROUP,
    ROUTER,
    SERVICE_LABEL,
    WORKER,
)
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.informer import Held, Informer, Store
from steelyard_operator.kube.kinds import (
    BUDGET,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    HTTP_ROUTE,
    POD,
    POLICY,
    SERVICE,
    Kind,
)
from steelyard_operator.kube.metrics import PODS
from steelyard_operator.kube.queue import Key
from steelyard_operator.planning.observed import Pod, Revision, Router
from steelyard_operator.planning.observing import pod_record, revision_record, router_record
from steelyard_operator.render.worker_key import key_secret

WORKERS = f"{SERVICE_LABEL},{COMPONENT_LABEL}={WORKER}"
ROUTERS = f"{SERVICE_LABEL},{COMPONENT_LABEL}={ROUTER}"


@dataclass(frozen=True, slots=True)
class Child:
    """What tells whether an applied object is still as it was applied."""

    stamp: str
    """Changes with everything that we say about the object; not with its status."""
    applied: str | None
    """The hash of what was applied last, by this operator or one before it."""
    touched: bool
    """Somebody else has changed it since."""
    router: Router | None = None
    live: Mapping[str, Any] | None = None
    """A Deployment's labels and annotations, for rendering it again."""


class Caches:
    """Stores of all kinds, filled while `run` runs."""

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str],
        *,
        wake: Callable[[Key], None],
        key_of: Callable[[str, str], Key | None],
        pod_gone: Callable[[str], None],
        is_sealed: Callable[[Raw], bool],
    ) -> None:
        """Make empty stores.

        Args:
            client: the API server.
            namespaces: those that are read; none: all.
            wake: asks for a pass over a service.
            key_of: finds a service by namespace and name.
            pod_gone: hears of the uid of each pod that is gone.
            is_sealed: whether a ControllerRevision shows that we wrote it.
        """

        def changed(held: Held[Any]) -> None:
            # Where somebody else controls it, it is in the way of the service whose label it has.
            if held.controller:
                wake((held.namespace, held.controller))
            named = key_of(held.namespace, held.service)
            if named and named[1] != held.controller:
                wake(named)

        def label(convert: Callable[[Raw], Any]) -> Store[Any]:
            return Store(convert, label=SERVICE_LABEL, changed=changed)

        self.pods: Store[Pod] = Store(
            pod_record, label=SERVICE_LABEL, changed=changed, removed=pod_gone
        )
        self.routers: Store[Pod] = Store(_router_pod, label=SERVICE_LABEL)
        self.revisions: Store[Revision] = label(
            lambda raw: replace(revision_record(raw), sealed=is_sealed(raw))
        )
        self.children: dict[Kind, Store[Child]] = {
            DEPLOYMENT: label(_deployment),
            **{kind: label(_child) for kind in (SERVICE, BUDGET, POLICY, HTTP_ROUTE)},
        }
        self._informers: list[Informer[Any]] = [
            informer
            for namespace in namespaces or (None,)
            for informer in self._of_namespace(client, namespace)
        ]

    def _of_namespace(self, client: Client, namespace: str | None) -> Iterator[Informer[Any]]:
        yield Informer(client, POD, namespace, self.pods, selector=WORKERS)
        yield Informer(client, POD, namespace, self.routers, selector=ROUTERS)
        yield Informer(
            client, CONTROLLER_REVISION, namespace, self.revisions, selector=SERVICE_LABEL
        )
        for kind, store in self.children.items():
            yield Informer(
                client,
                kind,
                namespace,
                store,
                selector=ROUTERS if kind is DEPLOYMENT else SERVICE_LABEL,
                metadata_only=kind is not DEPLOYMENT,
                optional=kind is HTTP_ROUTE,
            )

    async def run(self) -> None:
        """Fill the stores until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until everything there is was read once."""
        for informer in self._informers:
            await informer.synced.wait()

    def measure(self) -> None:
        """Count the pods for the metrics."""
        PODS.clear()
        for held in self.pods.every():
            pod = held.record
            role = "-".join(sorted(role.wire for role in pod.roles)) or "none"
            PODS.labels(role, "Terminating" if pod.deleting else pod.phase).inc()


def _router_pod(raw: Raw) -> Pod:
    return replace(pod_record(raw), key_secret=key_secret(raw.get("spec") or {}))


def _deployment(raw: Raw) -> Child:
    meta = raw["metadata"]
    child = _child(raw)
    said = {"labels": meta.get("labels"), "annotations": meta.get("annotations")}
    return Child(
        child.stamp, child.applied, child.touched, router_record(raw), live={"metadata": said}
    )


def _child(raw: Raw) -> Child:
    meta = raw["metadata"]
    annotations = meta.get("annotations") or {}
    ours = {name: text for name, text in annotations.items() if name.startswith(f"{GROUP}/")}
    said = orjson.dumps(
        [meta.get("labels"), ours, meta.get("ownerReferences")], option=orjson.OPT_SORT_KEYS
    )
    # Where there is no generation every change counts, also one that is none of our business.
    version = meta.get("generation") or meta["resourceVersion"]
    return Child(
        stamp=f"{version}/{hashlib.sha256(said).hexdigest()[:16]}",
        applied=annotations.get(APPLIED_ANNOTATION),
        touched=_touched(meta),
    )


def _touched(meta: Mapping[str, Any]) -> bool:
    """Whether somebody wrote to an object after us, other than to its status."""
    fields = meta.get("managedFields") or []
    ours = max(
        (str(each.get("time", "")) for each in fields if each.get("manager") == FIELD_MANAGER),
        default="",
    )
    return any(
        each.get("manager") != FIELD_MANAGER
        and not each.get("subresource")
        and str(each.get("time", "")) >= ours
        for each in fields
    )
