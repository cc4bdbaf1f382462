"""`steelyard up` balances: a worker drains and takes the other role when the traffic turns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.local.balancing import LocalBalancing, can_balance, direction
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.testing import a_service
from steelyard_operator.testing.demand import step_sums, steps_document

pytestmark = pytest.mark.anyio

RANGE = {"minReplicas": 1, "maxReplicas": 2}
TOKEN = "t" * 64
TICK = 5.0
PROMPTS, ANSWERS = (12, 500, 8), (20, 20, 300)  # requests a tick, prompt and answer tokens


def ranged(**more: Any) -> InferenceService:
    return a_service(
        prefill=RANGE,
        decode=RANGE,
        objectives={"ttftMilliseconds": 1000, "tpotMilliseconds": 40},
        rebalancing={"cooldownSeconds": 10, **more},
    )


@dataclass
class FakeWorker:
    """An admin port: drains when it is told to, unless it is stubborn."""

    name: str
    role: str
    stubborn: bool = False
    in_flight: int = 0
    phase: str = "ready"
    epoch: int = 0
    orders: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    async def state(self, request: web.Request) -> web.Response:
        """GET /state."""
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.phase == "draining" and not self.stubborn:
            self.phase = "drained"
        return web.json_response(
            {
                "role": self.role,
                "phase": self.phase,
                "epoch": self.epoch,
                "inFlight": self.in_flight,
                "steps": steps_document(step_sums()),
            }
        )

    async def order(self, request: web.Request) -> web.Response:
        """POST /drain and /role."""
        body = await request.json()
        self.orders.append((request.path, body))
        if body["epoch"] < self.epoch:
            return web.Response(status=409, text="an old epoch")
        self.epoch = body["epoch"]
        if request.path == "/drain":
            self.phase = "draining"
        else:
            self.role, self.phase = body["role"], "ready"
        return web.json_response({}, status=202 if request.path == "/drain" else 200)


@dataclass
class Machine:
    """Fake workers, a fake router, and a clock that only sleeping moves."""

    workers: list[FakeWorker]
    service: InferenceService
    now: float = 0.0
    load: tuple[int, int, int] = (0, 0, 0)
    sums: list[float] = field(default_factory=lambda: [0.0] * 6)
    counted: float = 0.0
    told: list[str] = field(default_factory=list)
    until: Callable[[], bool] = lambda: False

    async def signals(self, _request: web.Request) -> web.Response:
        """GET /router/signals, where as much came as the clock has moved."""
        requests, prompt, answer = self.load
        count, self.counted = requests * (self.now - self.counted) / TICK, self.now
        came = (count, count * prompt, count * prompt**2, count, count * answer)
        self.sums = [
            a + b for a, b in zip(self.sums, (*came, count * (prompt + answer)), strict=True)
        ]
        names = ("arrived", "inputTokens", "inputTokensSquared", "finished")
        sums = dict(zip((*names, "outputTokens", "contextTokens"), self.sums, strict=True))
        return web.json_response(
            {"id": "r", **sums, "backlogTokens": 0, "backlog": 0, "decoding": 0}
        )

    async def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds
        if self.until():
            raise asyncio.CancelledError

    async def balance(self, ticks: int) -> None:
        """Let the balance run for so many ticks of the clock, or until there is nothing to see."""
        end = self.now + ticks * TICK
        self.until = lambda: self.now > end
        async with contextlib.AsyncExitStack() as stack:
            for worker in self.workers:
                routes = [
                    web.get("/state", worker.state),
                    web.post("/drain", worker.order),
                    web.post("/role", worker.order),
                ]
                worker.url = await stack.enter_async_context(serving(routes))
            router = [web.get("/router/signals", self.signals)]
            desired: Any = SimpleNamespace(
                url=await stack.enter_async_context(serving(router)),
                drain_seconds=30,
                workers=[
                    SimpleNamespace(wanted=SimpleNamespace(name=each.name), admin_url=each.url)
                    for each in self.workers
                ],
            )
            balancing = LocalBalancing(
                self.service,
                desired,
                token=TOKEN,
                tell=self.told.append,
                tick_seconds=TICK,
                clock=lambda: self.now,
                sleep=self.sleep,
            )
            with contextlib.suppress(asyncio.CancelledError):
                await balancing.run()

    def split(self) -> Split:
        """The roles that the workers have."""
        roles = [worker.role for worker in self.workers]
        return Split(roles.count("prefill"), roles.count("decode"))


@contextlib.asynccontextmanager
async def serving(routes: list[web.RouteDef]) -> AsyncIterator[str]:
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def machine(service: InferenceService, **changes: Any) -> Machine:
    return Machine(
        [
            FakeWorker("demo-0", "prefill", **changes),
            FakeWorker("demo-1", "prefill", in_flight=3, **changes),
            FakeWorker("demo-2", "decode"),
        ],
        service,
        load=ANSWERS,
    )


async def test_the_least_busy_worker_changes_its_role() -> None:
    """Long answers: a prefill worker drains and decodes; both orders carry one, newer epoch."""
    seen = machine(ranged())
    await seen.balance(ticks=40)

    assert seen.split() == Split(1, 2)
    deadline = {"epoch": 1, "deadlineSeconds": 30}
    assert seen.workers[0].orders == [
        ("/drain", deadline),
        ("/role", {"role": "decode", "epoch": 1}),
    ]
    assert seen.workers[1].orders == seen.workers[2].orders == []
    first, second = seen.told
    assert first.startswith("demo-0 becomes a decode worker: ")
    assert "answer tokens/s need 1+" in first
    assert second.startswith("demo-0 serves decode after ")


async def test_traffic_that_turns_back_turns_a_worker_back() -> None:
    """Long prompts again: two prefill workers."""
    seen = machine(ranged())
    await seen.balance(ticks=40)
    seen.load = PROMPTS
    await seen.balance(ticks=60)

    assert seen.split() == Split(2, 1)


async def test_a_worker_that_does_not_drain_stays_what_it_is() -> None:
    """After the deadline and a grace it serves its old role again; the service goes on."""
    seen = machine(ranged(), stubborn=True)
    await seen.balance(ticks=30)

    assert seen.split() == Split(2, 1)
    assert seen.workers[0].orders[1] == ("/role", {"role": "prefill", "epoch": 1})
    assert seen.told[1] == "demo-0 stays a prefill worker: it did not drain"


async def test_recommend_says_it_once_and_does_nothing() -> None:
    """The workers are told nothing."""
    seen = machine(ranged(mode="Recommend"))
    await seen.balance(ticks=40)

    assert [worker.orders for worker in seen.workers] == [[], [], []]
    assert len(seen.told) == 1
    assert seen.told[0].startswith("recommended: 1+2; ")


def test_only_ranges_of_both_roles_leave_something_to_choose() -> None:
    """A fixed number, `mode: Off` and `flip: Disabled` are the user's own choice."""
    assert can_balance(ranged())
    assert not can_balance(ranged(mode="Off"))
    assert not can_balance(ranged(flip="Disabled"))
    assert not can_balance(a_service(prefill=RANGE, decode={"replicas": 1}))


@pytest.mark.parametrize(
    ("wanted", "role"),
    [
        (Split(1, 2), Role.DECODE),
        (Split(3, 0), Role.PREFILL),
        (Split(1, 1), None),
        (Split(2, 2), None),
        (Split(2, 1), None),
    ],
)
def test_a_worker_moves_only_where_one_role_has_too_many(wanted: Split, role: Role | None) -> None:
    """What would add or remove a worker is left."""
    assert direction(Split(2, 1), wanted) is role
