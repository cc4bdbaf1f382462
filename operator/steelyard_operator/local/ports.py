"""Ports on this machine: free ones for workers, and whether the user's choice is free."""

import errno
import random
import socket

from steelyard_operator.errors import UserError

HOST = "127.0.0.1"

# Below Linux' range for outgoing connections: a port found free here stays so until a worker, which
# imports torch first, listens on it.
FIRST_PORT, LAST_PORT = 20000, 32767


def free_ports(count: int, choice: random.Random) -> list[int]:
    """Return that many different free ports.

    Raises:
        UserError: there are not so many.
    """
    ports = choice.sample(range(FIRST_PORT, LAST_PORT + 1), LAST_PORT + 1 - FIRST_PORT)
    found: list[int] = []
    for port in ports:
        if len(found) == count:
            return found
        if _problem(port) is None:
            found.append(port)
    raise UserError(f"no {count} free ports from {FIRST_PORT} to {LAST_PORT} on {HOST}")


def require_free(port: int) -> None:
    """Raise a UserError that names `--port` unless something can listen on the port."""
    problem = _problem(port)
    if problem == errno.EADDRINUSE:
        raise UserError(f"--port: {port} is in use on {HOST}; give a free port, or 0 for any")
    if problem is not None:
        raise UserError(f"--port: cannot listen on {HOST}:{port}: {errno.errorcode[problem]}")


def _problem(port: int) -> int | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do; without it a port that was closed a moment ago counts as used.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EINVAL
    return None
