"""Binding the ports before anything is loaded, so that a port in use is told in a second."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.server.connections import ConnectionLimits, Connections
from steelyard_runtime.server.http_protocol import HttpProtocol

BACKLOG = 2048
# What the kernel keeps of a connection in each direction (it doubles the number): 2,000 readers
# that stop would take gigabytes of what it gives by itself.
KERNEL_BUFFER_BYTES = 256 * 1024


def bind(host: str, port: int, flag: str) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the address is wrong or the port is in use; names the flag.
    """
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"--host: must be an address of this machine, got '{host}'") from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
        sock.bind(address)
        # Two sockets may be bound to one port until one of them listens.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{flag}: cannot listen on {host}:{port}: {reason}") from None
    sock.setblocking(False)
    return sock


class HttpServer(uvicorn.Server):
    """One port's server in a loop that others share: signals and process exit are not its own."""

    def __init__(
        self, app: ASGIApp, sock: socket.socket, limits: ConnectionLimits | None = None
    ) -> None:
        self.connections = Connections(limits or ConnectionLimits())
        limits = self.connections.limits
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=cast(Any, functools.partial(HttpProtocol, connections=self.connections)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(limits.keep_alive_seconds),
                timeout_graceful_shutdown=1,
            )
        )
        self._sock = sock
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `worker_process.py`."""
        yield

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._sock.getsockname()[1])

    async def open(self) -> None:
        """Accept connections from now on."""
        self._task = asyncio.create_task(self.serve(sockets=[self._sock]))
        # The socket listens already; this waits for uvicorn's first two iterations.
        while not self.started and not self._task.done():  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def main_loop(self) -> None:
        """Tick until `close`, which does not wait for the next tick.

        Each tick renews the `Date` header and ends connections that take too long; uvicorn's own
        loop wakes ten times as often.
        """
        while not await self.on_tick(0):
            self.connections.sweep()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.connections.limits.sweep_seconds)

    @property
    def has_connections(self) -> bool:
        """Whether a client is connected."""
        return bool(self.server_state.connections)

    async def close(self) -> None:
        """Close the port and, after a moment, its connections."""
        if self._task is not None:
            self.should_exit = True
            self._closing.set()
            await self._task
