"""What a web page may send to a port without a key: nothing, unless its origin is allowed.

A browser sends requests of any page to any address that it reaches, so a loopback port alone is no
boundary. It tells the page in `Origin`; a page whose name was made to point to this machine (DNS
rebinding) shows in `Host`. Clients that are no browser send neither a foreign one nor the other.
"""

import re
from collections.abc import Sequence

from starlette.datastructures import Headers

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.settings import is_loopback

SHOWN_CHARACTERS = 60
ANY_ORIGIN = "*"

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::[0-9]{1,5})?")


class WebPages:
    """The rule of one port."""

    def __init__(self, host: str, allowed_origins: Sequence[str]) -> None:
        """Keep who may ask: `host` is the address that the port is bound to."""
        self._checks_host = is_loopback(host)
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}
        # A malformed origin allows no host; CORS compares it as a text.
        self._names = {_name_of(origin.partition("//")[2]) for origin in self._origins} - {None}

    def check(self, method: str, headers: Headers) -> None:
        """Refuse a request that a page sent, or that reached us under a stranger's name.

        Raises:
            RequestError: 403.
        """
        hosts = headers.getlist("host")
        if self._checks_host:
            for host in hosts:
                self._check_host(host)
        if method == "OPTIONS":
            return  # A preflight request does nothing, and is told who is allowed.
        for origin in headers.getlist("origin"):
            same = origin.partition("//")[2] in hosts and len(hosts) == 1
            if not (same or ANY_ORIGIN in self._origins or origin.lower() in self._origins):
                raise RequestError(
                    f"`Origin` must be one of --allowed-origins on a port without a key, got "
                    f"'{_shown(origin)}'",
                    status=403,
                    code="origin_not_allowed",
                )

    def _check_host(self, host: str) -> None:
        name = _name_of(host)
        if name is not None and (_is_local(name) or name in self._names):
            return
        raise RequestError(
            "`Host` must be a loopback name or address on a loopback port without a key, got "
            f"'{_shown(host)}'",
            status=403,
            code="host_not_allowed",
        )


def _name_of(host: str) -> str | None:
    match = _HOST.fullmatch(host.strip())
    return None if match is None else match["name"].strip("[]").rstrip(".").lower()


def _is_local(name: str) -> bool:
    return is_loopback(name) or name.endswith(".localhost")


def _shown(text: str) -> str:
    """Return a header's value for a message: short, on one line."""
    return text[:SHOWN_CHARACTERS].encode("ascii", "backslashreplace").decode()
