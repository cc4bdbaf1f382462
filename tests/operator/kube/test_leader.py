"""Who holds the Lease, for how long, and which epoch that is."""

import asyncio
from typing import Any

import pytest

from steelyard_operator.kube import leader as module
from steelyard_operator.kube.errors import Conflict, NotFound, Unreachable
from steelyard_operator.kube.leader import Leadership, LeadershipLostError

pytestmark = pytest.mark.anyio

LEASE_SECONDS = 0.3


class Leases:
    """One Lease, with optimistic locking as the API server has it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.away = False
        self.failures = 0
        self.written: asyncio.Queue[None] = asyncio.Queue()

    async def get(self, *_: Any) -> dict[str, Any]:
        """Return the Lease; an answer takes a moment, as a real one."""
        await asyncio.sleep(0.001)
        if self.away or self.failures > 0:
            self.failures -= 1
            raise Unreachable("away")
        if self.lease is None:
            raise NotFound("none")
        return self.lease

    async def create(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
        """Make the Lease."""
        if self.lease is not None:
            raise Conflict("exists")
        return self._keep(body)

    async def replace(self, _: Any, body: dict[str, Any]) -> dict[str, Any]:
        """Replace the Lease, if nobody else has."""
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("newer")
        self.written.put_nowait(None)
        return self._keep(body)

    def _keep(self, body: dict[str, Any]) -> dict[str, Any]:
        version = int(self.lease["metadata"]["resourceVersion"]) + 1 if self.lease else 1
        meta = {**body["metadata"], "resourceVersion": str(version)}
        self.lease = {**body, "metadata": meta}
        return self.lease


@pytest.fixture
def leases() -> Leases:
    """A cluster without a Lease."""
    return Leases()


def claim(leases: Leases, name: str, **more: Any) -> Leadership:
    """A claim of one process."""
    return Leadership(leases, "ns", name, lease_seconds=LEASE_SECONDS, **more)  # type: ignore[arg-type]  # a stand-in


async def two_writes(leases: Leases, keeping: asyncio.Task[None]) -> None:
    """Wait until the Lease was written twice, and end the claim that must go on until then."""
    for _ in range(2):
        write = asyncio.create_task(leases.written.get())
        await asyncio.wait({write, keeping}, return_when=asyncio.FIRST_COMPLETED)
        assert not keeping.done(), keeping.exception()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_each_holder_has_a_higher_epoch(leases: Leases) -> None:
    """A Lease that was given back is taken at once, with the next epoch."""
    one, two = claim(leases, "one"), claim(leases, "two")
    await one.acquire()
    first = one.epoch
    await one.release()
    await two.acquire()

    assert (first, two.epoch) == (1, 2)


async def test_a_claim_that_was_cancelled_is_given_back(leases: Leases) -> None:
    """A process that is told to stop while the answer to its claim is on its way holds nothing."""
    create = leases.create

    async def without_answer(kind: Any, body: dict[str, Any]) -> dict[str, Any]:
        await create(kind, body)
        leases.written.put_nowait(None)
        await asyncio.Event().wait()
        raise AssertionError

    leases.create = without_answer  # type: ignore[method-assign]
    one = claim(leases, "one")
    acquiring = asyncio.create_task(one.acquire())
    await leases.written.get()
    acquiring.cancel()
    await asyncio.gather(acquiring, return_exceptions=True)
    await one.release()

    assert leases.lease is not None
    assert leases.lease["spec"]["holderIdentity"] == ""


async def test_who_never_claimed_leaves_the_lease_of_another(leases: Leases) -> None:
    """Giving back is for holders."""
    await claim(leases, "one").acquire()
    await claim(leases, "two").release()

    assert leases.lease is not None
    assert leases.lease["spec"]["holderIdentity"] == "one"


async def test_a_silent_holder_is_replaced_by_our_own_clock(leases: Leases) -> None:
    """What counts is how long we have seen no renewal, not what the holder's clock says."""
    await claim(leases, "one").acquire()
    assert leases.lease is not None
    leases.lease["spec"]["leaseDurationSeconds"] = 15
    seconds = iter(range(0, 1000, 4))
    two = claim(leases, "two", clock=lambda: float(next(seconds)))

    await two.acquire()

    assert leases.lease["spec"]["holderIdentity"] == "two"
    assert next(seconds) >= 16


async def test_a_holder_that_is_overtaken_ends(leases: Leases) -> None:
    """The process that was paused too long learns that another holds the Lease."""
    one = claim(leases, "one")
    await one.acquire()
    assert leases.lease is not None
    leases.lease["spec"] = {**leases.lease["spec"], "holderIdentity": "two"}

    with pytest.raises(LeadershipLostError, match="another operator has taken the Lease"):
        await one.keep()


async def test_a_holder_that_cannot_renew_ends_before_the_lease_does(leases: Leases) -> None:
    """Without an answer the claim ends at two thirds of the Lease's time."""
    one = claim(leases, "one")
    await one.acquire()
    leases.away = True

    with pytest.raises(LeadershipLostError, match="was not renewed"):
        await one.keep()


async def test_one_failed_renewal_loses_nothing(leases: Leases) -> None:
    """It is tried again soon enough that the claim goes on."""
    one = claim(leases, "one")
    await one.acquire()
    leases.failures = 1
    keeping = asyncio.create_task(one.keep())

    await two_writes(leases, keeping)

    assert leases.failures == 0


async def test_a_race_with_our_own_raised_epoch_loses_nothing(leases: Leases) -> None:
    """The Lease was written by us between the reading and the renewal."""
    one = claim(leases, "one")
    await one.acquire()
    read = leases.get

    async def overtaken(*arguments: Any) -> dict[str, Any]:
        found = await read(*arguments)
        leases.get = read  # type: ignore[method-assign]  # only once
        await one.raise_epoch(41)
        return found

    leases.get = overtaken  # type: ignore[method-assign]
    keeping = asyncio.create_task(one.keep())
    await two_writes(leases, keeping)

    assert one.epoch == 42


async def test_a_holder_that_was_stopped_is_not_certain(leases: Leases) -> None:
    """Its clock has gone on: until it has renewed, another may hold the Lease."""
    now = [1000.0]
    one = claim(leases, "one", clock=lambda: now[0])
    assert not one.is_certain

    await one.acquire()
    assert one.is_certain

    now[0] += LEASE_SECONDS
    assert not one.is_certain


async def test_the_claim_counts_from_before_the_write(leases: Leases) -> None:
    """A process that is stopped while it takes the Lease does not count from its waking."""
    now = [0.0]
    one = claim(leases, "one", clock=lambda: now[0])
    create = leases.create

    async def slow(*arguments: Any) -> dict[str, Any]:
        found = await create(*arguments)
        now[0] += 100.0
        return found

    leases.create = slow  # type: ignore[method-assign]
    await one.acquire()

    leases.away = True
    with pytest.raises(LeadershipLostError):
        await one.keep()


async def test_a_lease_that_was_deleted_does_not_lower_the_epoch(leases: Leases) -> None:
    """The epoch rises above what a worker has seen, so that its orders are not refused."""
    one = claim(leases, "one")
    await one.acquire()
    await one.raise_epoch(41)

    assert one.epoch == 42
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 42


async def test_only_the_holder_can_raise_the_epoch(leases: Leases) -> None:
    """One that lost the Lease without knowing fails instead."""
    one = claim(leases, "one")
    await one.acquire()
    assert leases.lease is not None
    leases.lease = {**leases.lease, "metadata": {"resourceVersion": "99"}}

    with pytest.raises(Conflict):
        await one.raise_epoch(41)


async def test_a_lease_that_cannot_be_given_back_stops_nothing(
    leases: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    """The next holder waits for its end, and the log says so."""
    one = claim(leases, "one")
    await one.acquire()
    assert leases.lease is not None
    leases.lease = {**leases.lease, "metadata": {"resourceVersion": "99"}}

    with caplog.at_level("WARNING", logger=module.__name__):
        await one.release()

    assert "was not given back" in caplog.text
