"""Puts the parts of a worker's HTTP process together; who starts and ends them is elsewhere."""

import socket
import time
from dataclasses import dataclass, replace

from steelyard_runtime.server.admin import build_admin_app
from steelyard_runtime.server.app import build_app
from steelyard_runtime.server.connections import open_files_limit, within_files
from steelyard_runtime.server.engine_client import EngineClient
from steelyard_runtime.server.listening import HttpServer, bind
from steelyard_runtime.server.metrics import WorkerMetrics
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.settings import ServerSettings
from steelyard_runtime.server.worker_state import WorkerState

# Of the files that this process may open.
SERVING_SHARE, ADMIN_SHARE = 0.75, 0.2
# The operator and whoever looks: a few of each.
ADMIN_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """The parts of one worker; `servers` are those of the serving and of the admin port."""

    client: EngineClient
    state: WorkerState
    worker: Worker
    servers: tuple[HttpServer, HttpServer]


@dataclass(frozen=True, slots=True)
class BoundPorts:
    """Both listening sockets, bound before anything else is done."""

    serving: socket.socket
    admin: socket.socket


def bind_ports(settings: ServerSettings) -> BoundPorts:
    """Bind both ports.

    Raises:
        ConfigError: one is in use.
    """
    return BoundPorts(
        bind(settings.host, settings.port, "--port"),
        bind(settings.host, settings.admin_port, "--admin-port"),
    )


def put_together(
    settings: ServerSettings, engine: socket.socket, role: str, ports: BoundPorts | None = None
) -> WorkerParts:
    """Return the parts of a worker whose engine is at the other end of `engine`.

    Raises:
        ConfigError: `ports` was not given and a port is in use.
    """
    bound = ports or bind_ports(settings)
    metrics = WorkerMetrics(settings.served_model_name)
    client = EngineClient(engine, metrics.take_engine_stats)
    state = WorkerState(client, metrics, role, transfers_kv=not settings.is_exposed)
    worker = Worker(settings, state, time.monotonic_ns, time.time)
    limits = settings.connections
    files = open_files_limit()
    serving = within_files(limits, SERVING_SHARE, files)
    admin = within_files(replace(limits, at_most=ADMIN_CONNECTIONS), ADMIN_SHARE, files)
    servers = (
        HttpServer(build_app(worker), bound.serving, serving),
        HttpServer(build_admin_app(settings, state), bound.admin, admin),
    )
    return WorkerParts(client, state, worker, servers)
