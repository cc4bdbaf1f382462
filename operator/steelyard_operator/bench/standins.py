"""Stand-ins for all workers and routers of a cluster: one program that listens on every address.

Who is asked is known by the address that was called. Workers take orders as real ones do; routers
of busy services count requests that nobody sent.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from steelyard_operator.api.names import SERVICE_LABEL
from steelyard_operator.bench.options import is_busy
from steelyard_operator.kube import credentials
from steelyard_operator.kube.caches import ROUTERS, WORKERS
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.informer import Held, Informer, Store
from steelyard_operator.kube.kinds import POD
from steelyard_operator.planning.observed import Pod
from steelyard_operator.planning.observing import pod_record
from steelyard_operator.render.ports import ADMIN, ROUTER
from steelyard_operator.testing.demand import step_sums, steps_document

# Of each router of a busy service.
REQUESTS_PER_SECOND, PROMPT_TOKENS, ANSWER_TOKENS = 0.5, 200, 50
STEPS = steps_document(step_sums())
SUMS = ("arrived", "inputTokens", "inputTokensSquared", "finished", "outputTokens", "contextTokens")


class Worker:
    """What a worker's admin port says."""

    def __init__(self, pod: Pod) -> None:
        self.role = next((role.wire for role in pod.roles), "both")
        self.phase = "ready"
        self.epoch = 0

    def take(self, path: str, body: Mapping[str, Any]) -> int:
        """Do what an order says; returns the status of the answer."""
        if body["epoch"] < self.epoch:
            return 409
        self.epoch = body["epoch"]
        if path == "/drain":
            self.phase = "drained"
        else:
            self.role, self.phase = body["role"], "ready"
        return 200

    def document(self, busy_seconds: float) -> dict[str, Any]:
        """Return the body of `GET /state`; a busy worker's steps become more and more."""
        steps: dict[str, Any] = {
            name: {each: value * busy_seconds for each, value in sums.items()}
            if isinstance(sums, dict)
            else sums
            for name, sums in STEPS.items()
        }
        return {
            "role": self.role,
            "phase": self.phase,
            "epoch": self.epoch,
            "fingerprint": "f" * 64,
            "inFlight": 0,
            "steps": steps,
        }


def signals(id: str, busy_seconds: float) -> dict[str, Any]:
    """Return the body of `GET /router/signals` after so many seconds with requests."""
    count = int(REQUESTS_PER_SECOND * busy_seconds)
    prompt, answer = PROMPT_TOKENS, ANSWER_TOKENS
    each = (1, prompt, prompt**2, 1, answer, prompt + answer)
    return {
        "id": id,
        **{name: count * one for name, one in zip(SUMS, each, strict=True)},
        **{"backlogTokens": 0, "backlog": 0, "decoding": 0},
        "ttft": [count if place == 12 else 0 for place in range(40)],
        "tpot": [count if place == 6 else 0 for place in range(40)],
    }


class StandIns:
    """The pods by their addresses, and what they answer."""

    def __init__(self, busy_percent: int) -> None:
        self._busy_percent = busy_percent
        self._began = time.monotonic()
        self._by_address: dict[str, Held[Pod]] = {}
        self._workers: dict[str, Worker] = {}

    def store(self) -> Store[Pod]:
        """Return a store of pods for whom this answers."""
        return Store(pod_record, label=SERVICE_LABEL, changed=self._changed, removed=self._gone)

    def _changed(self, held: Held[Pod]) -> None:
        if held.record.ip:
            self._by_address[held.record.ip] = held

    def _gone(self, uid: str) -> None:
        self._workers.pop(uid, None)

    def _asked(self, request: web.BaseRequest) -> Held[Pod]:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        return self._by_address[address]

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer in the name of the pod whose address was called."""
        try:
            held = self._asked(request)
        except KeyError:
            return web.Response(status=503)
        busy = is_busy(held.service, self._busy_percent)
        seconds = time.monotonic() - self._began if busy else 0.0
        status = 200
        if request.path == "/router/signals":
            document = signals(held.name, seconds)
        else:
            worker = self._workers.setdefault(held.uid, Worker(held.record))
            if request.method == "POST":
                status = worker.take(request.path, orjson.loads(await request.read()))
            document = worker.document(seconds)
        return web.Response(
            body=orjson.dumps(document), status=status, content_type="application/json"
        )


async def stand_in(kubeconfig: Path, busy_percent: int) -> None:
    """Answer for all pods until cancelled."""
    standins = StandIns(busy_percent)
    runner = web.ServerRunner(web.Server(standins.answer, access_log=None))
    await runner.setup()
    for port in (ADMIN, ROUTER):
        await web.TCPSite(runner, "0.0.0.0", port, backlog=4096).start()
    found = await credentials.load({"KUBECONFIG": str(kubeconfig)})
    async with Client(found) as client, asyncio.TaskGroup() as group:
        for selector in (WORKERS, ROUTERS):
            informer = Informer(client, POD, None, standins.store(), selector=selector)
            group.create_task(informer.run())


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--busy-percent", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(stand_in(given.kubeconfig, given.busy_percent))


if __name__ == "__main__":
    main()
