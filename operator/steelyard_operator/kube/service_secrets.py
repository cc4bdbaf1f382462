"""The Secrets that a service's pods mount: made, and never read."""

import contextlib
import time
from collections.abc import Callable

from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import Conflict
from steelyard_operator.kube.kinds import DEPLOYMENT, SECRET
from steelyard_operator.kube.memory import Memory
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.secret import token_secret, worker_key_secret
from steelyard_operator.render.worker_key import routers_key

SECRET_AGAIN_SECONDS = 30.0


class ServiceSecrets:
    """Makes a service's Secrets where a pod may need them; whether they exist cannot be read."""

    def __init__(
        self,
        client: Client,
        caches: Caches,
        master_key: MasterKey,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._caches = caches
        self._master_key = master_key
        self._clock = clock

    async def ensure(self, owner: Owner, memory: Memory, *, creating: bool) -> None:
        """Make the Secrets, unless that was just done or no pod can wait for them.

        Args:
            owner: the resource.
            memory: of its passes.
            creating: whether pods are made in this pass.
        """
        now = self._clock()
        pods = [
            *self._caches.pods.of(owner.namespace, owner.name),
            *self._caches.routers.of(owner.namespace, owner.name),
        ]
        waits = any(each.record.scheduled and each.record.phase == "Pending" for each in pods)
        if not (creating or waits) or now - memory.secret_at < SECRET_AGAIN_SECONDS:
            return
        for secret in (
            token_secret(owner, self._master_key.token(owner.uid)),
            worker_key_secret(owner, self._master_key.worker_key(owner.uid)),
        ):
            with contextlib.suppress(Conflict):  # it is there
                await self._client.create(SECRET, secret)
        memory.secret_at = now

    def routers_key(self, owner: Owner) -> str | None:
        """Return the Secret whose key all routers of a service show, if there is such a one."""
        deployments = self._caches.children[DEPLOYMENT].of(owner.namespace, owner.name)
        live = next((one.record.live for one in deployments if one.controller == owner.uid), None)
        routers = self._caches.routers.of(owner.namespace, owner.name)
        alive = (one.record for one in routers if one.record.phase not in ("Failed", "Succeeded"))
        return routers_key(live, (one.key_secret for one in alive))
