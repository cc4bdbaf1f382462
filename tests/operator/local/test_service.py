"""The loop that keeps a service running, in process, on the stand-in for the runtime."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Probe
from steelyard_operator.local.desired import PORTS_PER_WORKER, Addresses, Desired, Worker, desired
from steelyard_operator.local.membership import MembershipFile
from steelyard_operator.local.parent_pipe import ParentPipe
from steelyard_operator.local.ports import free_ports
from steelyard_operator.local.processes import ProcessTable
from steelyard_operator.local.service import LocalService

pytestmark = pytest.mark.anyio

IMPATIENT = Probe("/ready", 0, period_seconds=1, failure_threshold=1)


def impatient(worker: Worker) -> Worker:
    """Return the worker with a readiness that ends after a second without an answer."""
    container = replace(worker.wanted.container, readiness=IMPATIENT)
    return replace(worker, wanted=replace(worker.wanted, container=container))


@dataclass
class Running:
    """A running service."""

    table: ProcessTable
    file: MembershipFile

    def members(self) -> list[str]:
        """Return the ids that the membership file lists."""
        return [worker["id"] for worker in json.loads(self.file.path.read_text())["workers"]]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, at most fifteen seconds."""
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    service: InferenceService, steelyard: Any, fake_runtime: tuple[str, ...]
) -> AsyncIterator[Running]:
    """Run the sample's processes until they are ready, and end them afterwards."""
    folder: Path = steelyard.folder
    token_file = folder / "token"
    token_file.write_text("t0ken")
    ports = free_ports(2 * PORTS_PER_WORKER + 1, random.Random(os.getpid()))
    addresses = Addresses("127.0.0.1", ports[0], ports[1:], token_file, folder / "members")
    wanted: Desired = desired(service, addresses, cores=2)
    wanted = replace(wanted, workers=tuple(map(impatient, wanted.workers)))
    with ParentPipe() as pipe:
        table = ProcessTable(pipe, clock=time.monotonic)
        file = MembershipFile(addresses.membership_file)
        local = LocalService(
            wanted,
            table,
            file,
            token="t0ken",
            executables={"steelyard-runtime": fake_runtime},
            environment=steelyard.environment,
        )
        loop = asyncio.create_task(local.run())
        try:
            await asyncio.wait_for(local.ready.wait(), 30)
            yield Running(table, file)
        finally:
            loop.cancel()
            await asyncio.wait((loop,))
            await local.stop()


async def test_a_worker_that_does_not_answer_leaves_until_it_does(
    sample: InferenceService, steelyard: Any, fake_runtime: tuple[str, ...]
) -> None:
    """The router is not sent to a stopped process, and is sent back when it goes on."""
    async with running(sample, steelyard, fake_runtime) as service:
        assert service.members() == ["smollm2-0", "smollm2-1"]
        os.kill(service.table.pid("smollm2-0"), signal.SIGSTOP)
        await service.until(lambda: service.members() == ["smollm2-1"])
        os.kill(service.table.pid("smollm2-0"), signal.SIGCONT)
        await service.until(lambda: service.members() == ["smollm2-0", "smollm2-1"])


async def test_a_dead_worker_leaves_and_its_successor_joins(
    sample: InferenceService, steelyard: Any, fake_runtime: tuple[str, ...]
) -> None:
    """The successor has the same name and address, and is listed once it is ready."""
    async with running(sample, steelyard, fake_runtime) as service:
        before = service.file.path.read_text()
        pid = service.table.pid("smollm2-1")
        os.kill(pid, signal.SIGKILL)
        await service.until(lambda: service.members() == ["smollm2-0"])
        await service.until(lambda: service.file.path.read_text() == before)

        assert service.table.pid("smollm2-1") != pid
