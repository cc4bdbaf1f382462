"""Which keys are worked on, when, and how often."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from steelyard_operator.kube import queue as module
from steelyard_operator.kube.queue import Key, WorkQueue

pytestmark = pytest.mark.anyio

ONE, TWO = ("ns", "one"), ("ns", "two")


@asynccontextmanager
async def running(
    queue: WorkQueue, work: Callable[[Key], Awaitable[float | None]], concurrency: int = 2
) -> AsyncIterator[None]:
    """Work for the time of the block, then end as the operator does."""
    task = asyncio.create_task(queue.run(work, concurrency))
    try:
        yield
    finally:
        queue.close()
        await asyncio.wait_for(task, 5)


async def test_a_key_that_waits_is_not_added_twice() -> None:
    """Ten changes before a pass are one pass."""
    queue, passes, done = WorkQueue(), [], asyncio.Event()

    async def work(key: Key) -> None:
        passes.append(key)
        if key == TWO:
            done.set()

    for _ in range(10):
        queue.add(ONE)
    queue.add(TWO)
    async with running(queue, work, concurrency=1):
        await done.wait()

    assert passes == [ONE, TWO]


async def test_a_change_during_a_pass_is_another_pass_of_the_same_worker() -> None:
    """A key is never worked on twice at the same time, and nothing is missed."""
    queue, at_once, most, passes = WorkQueue(), 0, 0, 0
    done = asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal at_once, most, passes
        at_once, passes = at_once + 1, passes + 1
        most = max(most, at_once)
        if passes == 1:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0)
        at_once -= 1
        if passes == 2:
            done.set()

    queue.add(ONE)
    async with running(queue, work):
        await done.wait()

    assert (most, passes) == (1, 2)


async def test_a_failed_pass_comes_back_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay doubles, and changes in between do not shorten it."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_SECONDS", 0.05)
    queue, times, done = WorkQueue(), [], asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work(key: Key) -> None:
        times.append(loop.time())
        loop.call_soon(queue.add, key)
        if len(times) < 4:
            raise ValueError("not yet")
        done.set()

    queue.add(ONE)
    async with running(queue, work):
        await done.wait()

    first, second, third = (later - earlier for earlier, later in itertools.pairwise(times))
    assert first >= 0.049
    assert second >= 0.099
    assert third >= 0.199


async def test_news_of_the_resource_end_a_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edited resource is tried at once: what failed may be mended."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_SECONDS", 3600.0)
    queue, passes, done = WorkQueue(), 0, asyncio.Event()
    failed = asyncio.Event()

    async def work(_: Key) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            asyncio.get_running_loop().call_soon(failed.set)
            raise ValueError("wrong")
        done.set()

    queue.add(ONE)
    async with running(queue, work):
        await failed.wait()
        queue.add_at_once(ONE)
        await asyncio.wait_for(done.wait(), 5)

    assert passes == 2


async def test_a_pass_names_when_to_look_again() -> None:
    """A key comes back by itself."""
    queue, passes, done = WorkQueue(), 0, asyncio.Event()

    async def work(_: Key) -> float | None:
        nonlocal passes
        passes += 1
        if passes < 2:
            return 0.01
        done.set()
        return None

    queue.add(ONE)
    async with running(queue, work):
        await asyncio.wait_for(done.wait(), 5)

    assert passes == 2


async def test_the_earlier_of_two_times_stands() -> None:
    """Asking for a later look does not postpone the one that was asked for."""
    queue, done = WorkQueue(), asyncio.Event()

    async def work(_: Key) -> None:
        done.set()

    queue.add_after(ONE, 0.01)
    queue.add_after(ONE, 3600)
    async with running(queue, work):
        await asyncio.wait_for(done.wait(), 5)


async def test_closing_lets_a_pass_end() -> None:
    """What was begun is done; nothing new is begun."""
    queue, begun, go, ended = WorkQueue(), asyncio.Event(), asyncio.Event(), []

    async def work(key: Key) -> None:
        begun.set()
        await go.wait()
        ended.append(key)

    queue.add(ONE)
    queue.add(TWO)
    task = asyncio.create_task(queue.run(work, 1))
    await begun.wait()
    queue.close()
    go.set()
    await asyncio.wait_for(task, 5)

    assert ended == [ONE]


async def test_a_crowd_of_others_does_not_hold_up_what_goes_first() -> None:
    """Some workers take nothing else; the others take all, so that the crowd has its turn too."""
    crowd = [("ns", f"new{number}") for number in range(20)]
    queue = WorkQueue(lambda key: key == ONE)
    hang, done, all_done, passes = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

    async def work(key: Key) -> None:
        passes.append(key)
        if key == ONE:
            done.set()
        else:
            await hang.wait()
        if len(passes) == 21:
            all_done.set()

    for key in crowd:
        queue.add(key)
    async with running(queue, work, concurrency=4):
        queue.add(ONE)
        await asyncio.wait_for(done.wait(), 5)
        assert len(passes) == 2
        hang.set()
        await asyncio.wait_for(all_done.wait(), 5)

    assert set(passes) == {ONE, *crowd}
