"""What a browser with a foreign web page open may do, where no keys are configured.

A page can send a request anywhere, though it cannot read the answer: so its `Origin` must be ours.
It cannot send JSON as such without asking first: so a body must say that it is JSON. And a name of
its own that it points at this machine (DNS rebinding) makes it read answers, too: so on loopback
the `Host` must be one of this machine.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from steelyard_runtime.errors import RequestError

_JSON = "application/json"


class BrowserGuard:
    """Refuses what only a page from elsewhere would send."""

    def __init__(
        self, *, host: str, allowed_hosts: tuple[str, ...], allowed_origins: tuple[str, ...]
    ) -> None:
        """Take the address that is listened on, and the flags."""
        self._loopback = _is_loopback(host)
        self._hosts = frozenset(name.lower() for name in allowed_hosts)
        self._origins = frozenset(allowed_origins)

    def check(self, request: web.BaseRequest) -> None:
        """Let a request pass or not; its body is not looked at.

        Raises:
            RequestError: 403 (its host or origin) or 415 (its content type).
        """
        headers = request.headers
        hosts = headers.getall("Host", [])
        if self._loopback and not all(self._is_ours(one, request) for one in hosts):
            raise RequestError(
                f"The Host {_shown(hosts[0])} is none of this machine; allowed are localhost, "
                "loopback addresses and the names of --allowed-hosts.",
                status=403,
                code="host_not_allowed",
            )
        origins = headers.getall("Origin", [])
        known = "*" in self._origins or (
            bool(origins) and all(origin in self._origins for origin in origins)
        )
        same = bool(origins) and all(_is_same(origin, hosts) for origin in origins)
        if origins and not known and not same:
            raise _foreign(f"the Origin {_shown(origins[0])}")
        if not known and headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site":
            raise _foreign("a page of another site (Sec-Fetch-Site)")
        if request.method == "POST" and request.content_type != _JSON:
            raise RequestError(
                f"A body must be sent with Content-Type {_JSON}, got "
                f"{_shown(headers.get('Content-Type', 'none'))}.",
                status=415,
                code="unsupported_media_type",
            )

    def _is_ours(self, given: str, request: web.BaseRequest) -> bool:
        if _names_loopback(given):
            return True
        name = _host_name(given)
        if name is None:
            return False
        if name in self._hosts or given.lower() in self._hosts or "*" in self._hosts:
            return True
        own = request.transport and request.transport.get_extra_info("sockname")
        return bool(own and name == own[0])


@lru_cache(maxsize=256)  # every request has one, most the same
def _names_loopback(host: str) -> bool:
    name = _host_name(host)
    return name is not None and _is_loopback(name)


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str | None:
    """Return the name in a `Host` header, without its port; None where it is damaged."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.netloc != host or "@" in host or (parts.port is None and host.endswith(":")):
            return None
        return parts.hostname.rstrip(".") if parts.hostname else None
    except ValueError:
        return None


def _is_same(origin: str, hosts: list[str]) -> bool:
    scheme, separator, rest = origin.partition("://")
    if not separator or scheme not in ("http", "https"):
        return False
    return bool(hosts) and all(rest.lower() == host.lower() for host in hosts)


def _foreign(what: str) -> RequestError:
    return RequestError(
        f"A request from {what} is refused without an API key; allowed are pages of this address "
        "and of --allowed-origins.",
        status=403,
        code="origin_not_allowed",
    )


def _shown(value: str) -> str:
    return ascii(value[:64])
