"""The operator's process: it waits for the Lease, then kopf tells of resources and passes are done.

Only the order in which things begin and end is here: what writes ends first, then the Lease is
given back, then the rest ends, which may take its time.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube import credentials
from steelyard_operator.kube.acting import Acting
from steelyard_operator.kube.balancing import Balancing
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import Children
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.events import Events
from steelyard_operator.kube.failures import Failures
from steelyard_operator.kube.leader import Leadership
from steelyard_operator.kube.queue import WorkQueue
from steelyard_operator.kube.reporting import Reporting
from steelyard_operator.kube.revisions import Revisions, is_sealed
from steelyard_operator.kube.rights import Rights
from steelyard_operator.kube.room import Room
from steelyard_operator.kube.routers import Routers
from steelyard_operator.kube.service_secrets import ServiceSecrets
from steelyard_operator.kube.services import Services
from steelyard_operator.kube.serving import serving
from steelyard_operator.kube.token import MasterKey, read_master_key
from steelyard_operator.kube.transacting import Transacting
from steelyard_operator.kube.watching import watch
from steelyard_operator.kube.workers import Workers
from steelyard_operator.reconcile import Parts, Reconciler
from steelyard_operator.settings import Settings, from_environment

log = logging.getLogger(__name__)

LAST_PASSES_SECONDS = 20.0


def operator(environment: Mapping[str, str] = os.environ) -> int:
    """Run the operator until SIGTERM; returns the exit code."""
    settings = from_environment(environment)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # kopf tells of every event that it saw; what happened is told by the passes.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    _raise_file_limit()
    return asyncio.run(_operate(settings, environment))


def _raise_file_limit() -> None:
    """Let the process have as many connections as it may: it keeps one to each pod that it asks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems name a limit and refuse it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass(frozen=True, slots=True)
class Process:
    """What the operator's process consists of."""

    settings: Settings
    credentials: credentials.Credentials
    client: Client
    leadership: Leadership
    services: Services
    caches: Caches
    queue: WorkQueue
    reconciler: Reconciler
    balancing: Balancing
    rights: Rights


async def _operate(settings: Settings, environment: Mapping[str, str]) -> int:
    stop = asyncio.Event()
    _stop_at_signals(stop)
    master_key = read_master_key(settings.master_key_file)
    found = await credentials.load(environment)
    identity = f"{environment.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    async with Client(found) as client, Workers() as workers, Routers() as routers:
        rights = Rights(client, settings.namespace)
        await rights.read()
        process = _assembled(
            settings=replace(settings, namespace=rights.served),
            found=found,
            client=client,
            workers=workers,
            routers=routers,
            master_key=master_key,
            identity=identity,
            rights=rights,
        )
        leadership = process.leadership
        async with serving(
            settings.metrics_port, ready=leadership.read.is_set, measure=process.caches.measure
        ) as port:
            log.info("%s: serves metrics on port %d, waits for the Lease", identity, port)
            if not await _before(stop, leadership.acquire()):
                await leadership.release()
                return 0
            log.info("%s: holds the Lease, epoch %d", identity, leadership.epoch)
            await _lead(process, stop)
    return 0


def _assembled(
    *,
    settings: Settings,
    found: credentials.Credentials,
    client: Client,
    workers: Workers,
    routers: Routers,
    master_key: MasterKey,
    identity: str,
    rights: Rights,
) -> Process:
    leadership = Leadership(
        client, settings.operator_namespace, identity, lease_seconds=settings.lease_seconds
    )
    client.may_write = lambda: leadership.is_certain
    queue = WorkQueue()
    services = Services(settings.operator_class, queue.add_at_once)
    caches = Caches(
        client,
        settings.namespace,
        wake=queue.add,
        key_of=services.key_of,
        pod_gone=workers.forget,
        is_sealed=partial(is_sealed, master_key),
    )
    revisions = Revisions(client, caches, settings, master_key)
    secrets = ServiceSecrets(client, caches, master_key)
    reporting = Reporting(client, services)
    balancing = Balancing(
        services=services,
        caches=caches,
        workers=workers,
        routers=routers,
        master_key=master_key,
        wake=queue.add,
        ledger=_to_ledger,
        tick_seconds=settings.tick_seconds,
    )
    events = Events(client, identity)
    room = Room(caches.pods, wake=queue.add)
    queue.goes_first = room.serves
    reconciler = Reconciler(
        Parts(
            settings=settings,
            services=services,
            caches=caches,
            workers=workers,
            children=Children(client, caches),
            revisions=revisions,
            acting=Acting(
                client,
                caches,
                workers,
                revisions,
                leadership,
                settings=settings,
                routers_key=secrets.routers_key,
            ),
            transacting=Transacting(reporting, leadership),
            reporting=reporting,
            balancing=balancing,
            events=events,
            failures=Failures(reporting, events, now=lambda: datetime.now(UTC)),
            room=room,
            secrets=secrets,
            master_key=master_key,
        )
    )
    return Process(
        settings=settings,
        credentials=found,
        client=client,
        leadership=leadership,
        services=services,
        caches=caches,
        queue=queue,
        reconciler=reconciler,
        balancing=balancing,
        rights=rights,
    )


async def _lead(process: Process, stop: asyncio.Event) -> None:
    """Do the operator's work until it is stopped or the Lease is lost.

    Raises:
        LeadershipLostError: another may act now.
        OperatorError: a part of the operator ended that must not.
    """
    tasks: list[asyncio.Task[None]] = []

    def start(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work, name=name))
        return tasks[-1]

    stopped = start("the stop signal", _wait(stop))
    start("the Lease", process.leadership.keep())
    start("the caches", process.caches.run())
    start("the balance", process.balancing.run())
    start("the rights", process.rights.keep())
    work = start("the work queue", _work(process))
    watching = start("kopf", _watch(process, stop))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                raise error
        if stopped not in done:
            raise OperatorError(f"{done.pop().get_name()} ended by itself")
        process.queue.close()
        await asyncio.wait({work}, timeout=LAST_PASSES_SECONDS)
    finally:
        await _cancelled(task for task in tasks if task is not watching)
        # What writes has ended, so the next leader may begin; kopf's end takes a while.
        await process.leadership.release()
        await _cancelled([watching])


def _to_ledger(line: str) -> None:
    """Write to standard output, where nothing else is written."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _work(process: Process) -> None:
    await process.caches.synced()
    log.info("the caches are filled")
    await process.queue.run(process.reconciler, process.settings.max_concurrent_reconciles)


async def _watch(process: Process, stop: asyncio.Event) -> None:
    await watch(
        process.client,
        process.settings.namespace,
        process.services,
        process.credentials.connection,
        take_signals=lambda: _stop_at_signals(stop),
    )


async def _before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Await work unless the stop signal comes first; returns whether the work was done."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(_wait(stop))
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done() and not stop.is_set()
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def _stop_at_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
