"""Which hosts the credentials of a service may be sent to: what the operator's administrator lists.

`steelyard-runtime fetch` reads the same list and applies it to every request that it sends
(`fetch/credential_hosts.py` of the runtime); here a service is refused before it has a pod.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from steelyard_operator.errors import UserError

SETTING = "STEELYARD_CREDENTIAL_HOSTS"
AWS = "aws"
"""Not a host: the endpoints that AWS' libraries choose themselves."""
# S3's own endpoints, and no other service's: some of those answer with anybody's code.
AWS_HOST = re.compile(
    r"([a-z0-9.-]+\.)?s3(-[a-z0-9-]+|express-[a-z0-9-]+)?(\.[a-z0-9-]+){0,2}\.amazonaws\.com(\.cn)?"
)
PORTS = {"https": 443, "http": 80}
HOST = r"\*|(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
ENTRY = re.compile(rf"((?P<scheme>https?)://)?(?P<host>{HOST})(:(?P<port>[0-9]{{1,5}}))?")
ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
FORM = (
    f"`host`, `host:port`, either with `http://` in front for plain text, `*.host`, `*` or `{AWS}`"
)


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry of the list."""

    host: str
    scheme: str
    port: int | None  # None: any

    def admits(self, scheme: str, host: str, port: int) -> bool:
        """Whether credentials may go there."""
        if self.host == "*":
            named = True
        elif self.host.startswith("*."):
            named = host.endswith(self.host[1:])
        else:
            named = host == self.host
        return named and scheme == self.scheme and self.port in (None, port)


def parse(entries: tuple[str, ...]) -> tuple[AllowedHost, ...]:
    """Return the hosts of a list, without the word for AWS.

    Raises:
        UserError: an entry has another form.
    """
    found = []
    for entry in entries:
        if entry == AWS:
            continue
        match = ENTRY.fullmatch(entry.lower())
        if match is None:
            raise UserError(
                f"the environment variable {SETTING} must be a list of {FORM}, got '{entry[:100]}'"
            )
        scheme, host = match["scheme"] or "https", match["host"]
        usual = None if host == "*" else PORTS[scheme]
        found.append(AllowedHost(host, scheme, int(match["port"]) if match["port"] else usual))
    return tuple(found)


def admits(entries: tuple[str, ...], address: str) -> bool:
    """Whether credentials may be sent to an endpoint."""
    split = _split(address)
    return split is not None and any(one.admits(*split) for one in parse(entries))


def admits_bucket(entries: tuple[str, ...], address: str) -> bool:
    """Whether a signature of AWS' form may be sent to an endpoint."""
    split = _split(address)
    if (
        split is not None
        and AWS in entries
        and split[0] == "https"
        and AWS_HOST.fullmatch(split[1])
    ):
        return True
    return admits(entries, address)


def admits_proxy(entries: tuple[str, ...], address: str) -> bool:
    """Whether credentials may pass a proxy: its host must be listed, whatever its port."""
    text = address if "://" in address else f"http://{address}"
    split = _split(text)
    if split is None:
        return False
    return any(one.admits(one.scheme, split[1], one.port or 0) for one in parse(entries))


def _split(address: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an address without a password, a query or odd letters."""
    if not ADDRESS.fullmatch(address):
        return None
    split = urlsplit(address)
    try:
        port = split.port or PORTS[split.scheme]
    except ValueError:
        return None
    return split.scheme, (split.hostname or "").rstrip("."), port
