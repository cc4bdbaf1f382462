"""HTTP to pods by their address: one kind of session, one way to write the address."""

import aiohttp

from steelyard_operator.planning.observed import Pod

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
AT_A_TIME = 64


def pod_session(keep_alive_seconds: float) -> aiohttp.ClientSession:
    """Return a session for short requests; the caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_A_TIME, keepalive_timeout=keep_alive_seconds),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
    )


def pod_url(pod: Pod, port: int, path: str) -> str:
    """Return the address of a path on a pod's port."""
    host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
    return f"http://{host}:{port}{path}"
