"""One operator at a time, by a Lease: taken, renewed, given back.

Its `leaseTransitions` grows with each holder and is the epoch of every order to a worker. A Lease
alone stops nobody who was paused: so the clock is asked before each write (`is_certain`), and
workers refuse orders of an older epoch.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError, Conflict, NotFound, words
from steelyard_operator.kube.kinds import LEASE
from steelyard_operator.kube.metrics import LEADER

log = logging.getLogger(__name__)

LEASE_NAME = "steelyard-operator"


class LeadershipLostError(OperatorError):
    """Somebody else may act now: this process must end."""


class Leadership:
    """This process' claim to a Lease."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        identity: str,
        *,
        lease_seconds: float,
        name: str = LEASE_NAME,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._where = (namespace, name)
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lease: Raw | None = None
        self._seen: tuple[Any, Any] | None = None  # holder and renewal of another
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._claimed = False  # a claim was sent; its answer may not have been awaited
        self.read = asyncio.Event()
        """Set once the Lease was read or found missing: the API server answers, with our rights."""

    @property
    def epoch(self) -> int:
        """How many holders the Lease has had; grows with each."""
        assert self._lease is not None, "the epoch is asked for before the Lease is held"
        return int(self._lease["spec"].get("leaseTransitions") or 0)

    @property
    def is_certain(self) -> bool:
        """Whether nobody else can hold the Lease yet, by this machine's clock.

        A process that was stopped (SIGSTOP, a paused machine) finds old events waiting when it goes
        on, and would act on them before it renews: it asks here first.
        """
        return self._clock() < self._renewed_at + self._lease_seconds * 2 / 3

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while True:
            try:
                async with asyncio.timeout(self._lease_seconds):
                    # Before the write: a process that is stopped in between must not count anew.
                    began = self._clock()
                    if await self._try():
                        self._renewed_at = began
                        LEADER.set(1)
                        return
            except Conflict:
                pass  # another replica was faster; look again
            except (ApiError, TimeoutError) as error:
                log.warning("the Lease cannot be read: %s", words(error))
            await asyncio.sleep(self._lease_seconds / 6)

    async def keep(self) -> None:
        """Renew the Lease for ever.

        Raises:
            LeadershipLostError: another holds it, or it could not be renewed for too long.
        """
        pause = self._lease_seconds / 3
        while True:
            await asyncio.sleep(pause)
            left = self._renewed_at + self._lease_seconds * 2 / 3 - self._clock()
            began = self._clock()
            try:
                # A request may hang for longer than the Lease lasts.
                async with asyncio.timeout(max(left, 0.0)):
                    if not await self._try():
                        raise LeadershipLostError("another operator has taken the Lease")
                self._renewed_at = began
                pause = self._lease_seconds / 3
            except (ApiError, TimeoutError) as error:
                log.warning("the Lease was not renewed: %s", words(error))
                if self._clock() >= self._renewed_at + self._lease_seconds * 2 / 3:
                    raise LeadershipLostError(
                        f"the Lease was not renewed for {self._lease_seconds * 2 / 3:.0f} s"
                    ) from error
                # Soon again: one lost answer, or a race with our own `raise_epoch`, loses nothing.
                pause = self._lease_seconds / 15

    async def raise_epoch(self, above: int) -> None:
        """Make the epoch greater than one that a worker has seen: the Lease was deleted once.

        Only a holder can: the write carries the resource version of the Lease as we renewed it.
        """
        lease = self._lease
        if lease is None or self.epoch > above:
            return
        spec = {**lease["spec"], "leaseTransitions": above + 1}
        self._lease = await self._client.replace(LEASE, {**lease, "spec": spec})

    async def release(self) -> None:
        """Give the Lease back, so that another need not wait for its end.

        Also one whose claim was cancelled before its answer came.
        """
        LEADER.set(0)
        if not self._claimed:
            return
        try:
            async with asyncio.timeout(5):
                lease = self._lease or await self._client.get(LEASE, *self._where)
                if lease["spec"].get("holderIdentity") != self._identity:
                    return
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(LEASE, {**lease, "spec": spec})
        except NotFound:
            return
        except (ApiError, TimeoutError) as error:
            log.warning("the Lease was not given back: %s", words(error))
        else:
            log.info("%s: gave the Lease back", self._identity)
        self._lease = None

    async def _try(self) -> bool:
        """Read the Lease; renew it if it is ours, take it if it is free."""
        namespace, name = self._where
        try:
            lease = await self._client.get(LEASE, namespace, name)
        except NotFound:
            self.read.set()
            self._claimed = True
            self._lease = await self._client.create(LEASE, self._new(namespace, name))
            return True
        self.read.set()
        spec = lease["spec"]
        holder = spec.get("holderIdentity")
        if holder == self._identity:
            self._claimed = True
            self._lease = await self._client.replace(LEASE, self._held(lease, taken=False))
            return True
        if self._lease is not None or (holder and not self._expired(spec)):
            return False
        self._claimed = True
        self._lease = await self._client.replace(LEASE, self._held(lease, taken=True))
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        """Judge by our own clock how long the holder has been silent; clocks differ."""
        seen = (spec.get("holderIdentity"), spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        return self._clock() - self._seen_at > float(spec.get("leaseDurationSeconds") or 0)

    def _new(self, namespace: str, name: str) -> Raw:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": self._spec({"leaseTransitions": 0}, taken=True),
        }

    def _held(self, lease: Raw, *, taken: bool) -> Raw:
        return {**lease, "spec": self._spec(lease["spec"], taken=taken)}

    def _spec(self, old: dict[str, Any], *, taken: bool) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            **old,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "renewTime": now,
        }
        if taken:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(old.get("leaseTransitions") or 0) + 1
        return spec
