"""The router process while it runs: sockets, membership, signals, drain."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.router.affinity import PrefixMemory
from steelyard_runtime.router.connections import Connections
from steelyard_runtime.router.drain import drain
from steelyard_runtime.router.key_files import follow, read_api_keys, read_worker_key
from steelyard_runtime.router.kubernetes_watch import EndpointSliceWatch, in_cluster
from steelyard_runtime.router.listener import http_server, listen
from steelyard_runtime.router.membership import MembershipFile, MembershipSource
from steelyard_runtime.router.pool import WorkerPool
from steelyard_runtime.router.service import RouterService
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.upstream import worker_session
from steelyard_runtime.router.worker_client import WorkerClient, WorkerKey

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130


@contextlib.asynccontextmanager
async def running_router(
    settings: RouterSettings, source: MembershipSource
) -> AsyncIterator[tuple[RouterService, int]]:
    """Serve while the block runs; gives the service and the port that it listens on.

    Raises:
        ConfigError: the address is in use or not of this machine.
    """
    memory = PrefixMemory()
    pool = WorkerPool(memory)
    worker_key = WorkerKey(settings.worker_api_key)
    client = WorkerClient(worker_key, settings.connect_timeout_seconds)
    connections = Connections(
        settings.max_connections,
        head_seconds=settings.head_seconds,
        reader_seconds=settings.reader_seconds,
    )
    async with worker_session(worker_key) as session:
        service = RouterService(settings, pool, memory, session, client)
        server = http_server(service.handle, connections)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        service.connections = lambda: len(server.connections)
        tasks = [
            asyncio.create_task(_follow(source, pool, service)),
            asyncio.create_task(service.sweeper.run()),
            asyncio.create_task(connections.run()),
            *_key_followers(settings, service, worker_key),
        ]
        for task in tasks:
            task.add_done_callback(_report)
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            await listen(site, settings.host, settings.port)
            yield service, runner.addresses[0][1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.health.close()
            await runner.cleanup()
            client.close()


def _key_followers(
    settings: RouterSettings, service: RouterService, worker_key: WorkerKey
) -> list["asyncio.Task[None]"]:
    clock = asyncio.get_running_loop().time
    following = []
    if settings.api_keys_file is not None:
        following.append(
            follow(
                settings.api_keys_file,
                read_api_keys,
                settings.api_keys,
                lambda keys: service.access.keys.replace(keys, clock()),
            )
        )
    if settings.worker_api_key_file is not None:
        following.append(
            follow(
                settings.worker_api_key_file,
                read_worker_key,
                settings.worker_api_key,
                worker_key.set,
            )
        )
    return [asyncio.create_task(each) for each in following]


async def serve(settings: RouterSettings, source: MembershipSource) -> int:
    """Serve until a signal; returns the exit code."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with running_router(settings, source) as (service, port):
        logger.info("listening", extra={"fields": {"host": settings.host, "port": port}})
        received = await signals.get()
        if received == signal.SIGTERM:
            received = await _drain(service, settings, signals)
    return EXIT_INTERRUPTED if received == signal.SIGINT else 0


async def _drain(
    service: RouterService, settings: RouterSettings, signals: "asyncio.Queue[signal.Signals]"
) -> signal.Signals:
    """Drain; a second signal ends it at once. Returns the signal that counts."""
    draining = asyncio.create_task(
        drain(
            service,
            service.connections,
            linger_seconds=settings.linger_seconds,
            timeout_seconds=settings.drain_timeout_seconds,
        )
    )
    second = asyncio.create_task(signals.get())
    done, pending = await asyncio.wait((draining, second), return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return second.result() if second in done else signal.SIGTERM


async def _follow(source: MembershipSource, pool: WorkerPool, service: RouterService) -> None:
    failures = service.metrics.membership_failures
    async for members in source.watch(lambda reason: failures.labels(reason).inc()):
        for worker in pool.apply(members):
            service.health.follow(worker)
        service.membership_known = True
        logger.info("membership", extra={"fields": {"workers": [one.id for one in members]}})


def _report(task: "asyncio.Task[None]") -> None:
    """Say so when something that runs as long as the process ended by itself."""
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a background task ended", exc_info=task.exception())


def membership_source(settings: RouterSettings, environment: Mapping[str, str]) -> MembershipSource:
    """Return where the workers are found.

    Raises:
        ConfigError: the file is missing or wrong, or this is no pod.
    """
    if settings.endpoints is not None:
        where = settings.endpoints
        return EndpointSliceWatch(
            in_cluster(environment), where.namespace, where.prefill_service, where.decode_service
        )
    if settings.membership_file is None:
        raise ConfigError("the router must be given a membership file or EndpointSlices")
    MembershipFile(settings.membership_file).read()  # its first content must be good
    return MembershipFile(settings.membership_file, settings.membership_poll_seconds)
