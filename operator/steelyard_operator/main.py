"""The operator's process: it waits for the Lease, then kopf tells of resources and passes are done.

kopf watches `InferenceService` objects and nothing else; no handler of it writes to them.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import kopf

from steelyard_operator.api.names import GROUP, PLURAL, VERSION
from steelyard_operator.errors import OperatorError
from steelyard_operator.kube import credentials
from steelyard_operator.kube.acting import Acting
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import Children
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError
from steelyard_operator.kube.events import Events
from steelyard_operator.kube.kinds import INFERENCE_SERVICE
from steelyard_operator.kube.leader import Leadership
from steelyard_operator.kube.queue import WorkQueue
from steelyard_operator.kube.reporting import Reporting
from steelyard_operator.kube.revisions import Revisions
from steelyard_operator.kube.services import Services
from steelyard_operator.kube.serving import serving
from steelyard_operator.kube.token import MasterKey, read_master_key
from steelyard_operator.kube.workers import Workers
from steelyard_operator.reconcile import Parts, Reconciler
from steelyard_operator.settings import Settings, from_environment

log = logging.getLogger(__name__)

# A whole number: kopf sends the first one as it is, and the API server takes no 300.0.
WATCH_SERVER_SECONDS, WATCH_CLIENT_SECONDS = 300, 330
CRD_AGAIN_SECONDS = 2.0
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
    return asyncio.run(_operate(settings, environment))


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


async def _operate(settings: Settings, environment: Mapping[str, str]) -> int:
    stop = asyncio.Event()
    _stop_at_signals(stop)
    master_key = read_master_key(settings.master_key_file)
    found = await credentials.load(environment)
    identity = f"{environment.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    async with Client(found) as client, Workers() as workers:
        process = _assembled(
            settings=settings,
            found=found,
            client=client,
            workers=workers,
            master_key=master_key,
            identity=identity,
        )
        leadership = process.leadership
        async with serving(
            settings.metrics_port, ready=leadership.read.is_set, measure=process.caches.measure
        ) as port:
            log.info("%s: serves metrics on port %d, waits for the Lease", identity, port)
            if not await _before(stop, leadership.acquire()):
                return 0
            log.info("%s: holds the Lease, epoch %d", identity, leadership.epoch)
            try:
                await _lead(process, stop)
            finally:
                # What ran has ended, so the next leader may begin.
                await leadership.release()
    log.info("%s: gave the Lease back", identity)
    return 0


def _assembled(
    *,
    settings: Settings,
    found: credentials.Credentials,
    client: Client,
    workers: Workers,
    master_key: MasterKey,
    identity: str,
) -> Process:
    leadership = Leadership(
        client, settings.operator_namespace, identity, lease_seconds=settings.lease_seconds
    )
    queue = WorkQueue()
    services = Services(settings.operator_class, queue.add_at_once)
    caches = Caches(
        client,
        settings.namespace,
        wake=queue.add,
        key_of=services.key_of,
        pod_gone=workers.forget,
    )
    revisions = Revisions(client, caches, settings)
    reconciler = Reconciler(
        Parts(
            settings=settings,
            client=client,
            services=services,
            caches=caches,
            workers=workers,
            children=Children(client, caches),
            revisions=revisions,
            acting=Acting(client, caches, workers, revisions, leadership),
            reporting=Reporting(client, services),
            events=Events(client, identity),
            master_key=master_key,
        )
    )
    return Process(settings, found, client, leadership, services, caches, queue, reconciler)


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
    work = start("the work queue", _work(process))
    watching = start("kopf", _watch(process))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                raise error
        # kopf has its own handlers for the signals; it ends where ours would have been called.
        if not done & {stopped, watching}:
            raise OperatorError(f"{done.pop().get_name()} ended by itself")
        process.queue.close()
        await asyncio.wait({work}, timeout=LAST_PASSES_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(process: Process) -> None:
    await process.caches.synced()
    log.info("the caches are filled")
    await process.queue.run(process.reconciler, process.settings.max_concurrent_reconciles)


async def _watch(process: Process) -> None:
    """Let kopf tell of InferenceServices; the CRD must be there first, kopf looks for it once."""
    namespace = process.settings.namespace
    while True:
        try:
            async for _ in process.client.list_pages(INFERENCE_SERVICE, namespace, page_size=1):
                break
            break
        except ApiError as error:
            log.warning("waits for InferenceServices to be served: %s", error)
            await asyncio.sleep(CRD_AGAIN_SECONDS)
    await kopf.operator(
        registry=handlers(process.services, process.credentials.connection),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=namespace is None,
        namespaces=[namespace] if namespace else [],
    )


def handlers(
    services: Services, connection: Callable[[], Awaitable[kopf.ConnectionInfo]]
) -> kopf.OperatorRegistry:
    """Return kopf's handlers: one call each."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection()

    # `on.create` and its like would write an annotation per change; a daemon adds a finalizer.
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def saw(type: str | None, body: kopf.Body, **_: Any) -> None:
        services.saw(type, dict(body))

    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """Return how kopf runs: it looks for nothing, posts nothing, and notices dead connections."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_SERVER_SECONDS
    settings.watching.client_timeout = WATCH_CLIENT_SECONDS
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.process.ultimate_exiting_timeout = None
    return settings


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
