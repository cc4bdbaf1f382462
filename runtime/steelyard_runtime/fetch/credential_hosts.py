"""Which hosts a token or a signature may be sent to; held to every request that leaves.

The operator refuses a service by the same list before it has a pod (`credential_hosts.py` there);
here nothing that a variable, a file of AWS' tools or a redirect says gets round it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from steelyard_runtime.errors import FetchError

VARIABLE = "STEELYARD_CREDENTIAL_HOSTS"
AWS = "aws"
DEFAULT = f"huggingface.co,{AWS}"
PORTS = {"https": 443, "http": 80}
HOST = r"\*|(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
ENTRY = re.compile(rf"((?P<scheme>https?)://)?(?P<host>{HOST})(:(?P<port>[0-9]{{1,5}}))?")
# S3's own endpoints, and no other service's: some of those answer with anybody's code.
AWS_HOST = re.compile(
    r"([a-z0-9.-]+\.)?s3(-[a-z0-9-]+|express-[a-z0-9-]+)?(\.[a-z0-9-]+){0,2}\.amazonaws\.com(\.cn)?"
)
# Where a container's agent answers on its own node: AWS documents these addresses.
AGENTS = frozenset(("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "127.0.0.1", "localhost"))


@dataclass(frozen=True, slots=True)
class CredentialHosts:
    """The list."""

    entries: tuple[str, ...]

    def admits(self, url: str) -> bool:
        """Whether credentials may be sent in a request to this address."""
        try:
            split = urlsplit(url)
            port = split.port or PORTS.get(split.scheme, 0)
        except ValueError:
            return False
        host = (split.hostname or "").rstrip(".").lower()
        return any(_admits(entry, split.scheme, host, port) for entry in self.entries)

    def admits_bucket(self, url: str, bucket: str) -> bool:
        """Whether a signature may be sent there; a bucket's name may stand before a host's."""
        host = (urlsplit(url).hostname or "").lower()
        at_aws = url.startswith("https://") and AWS_HOST.fullmatch(host) is not None
        if at_aws and AWS in self.entries:
            return True
        return self.admits(url) or self.admits(url.replace(f"//{bucket}.", "//", 1))

    def why_not(self, what: str, url: str) -> FetchError:
        """Return the error of a request that must not be sent."""
        host = urlsplit(url).netloc.rpartition("@")[2][:200]
        scheme = "http://" if url.startswith("http://") else ""
        return FetchError(
            f"{what} must not be sent to {scheme}{host}; {VARIABLE} or --credential-hosts must "
            f"list it (now: {', '.join(self.entries) or 'none'})"
        )


def parse_credential_hosts(text: str) -> CredentialHosts:
    """Return the list that a flag or a variable has, with commas.

    Raises:
        FetchError: an entry has another form.
    """
    entries = tuple(filter(None, (part.strip().lower() for part in text.split(","))))
    for entry in entries:
        if ENTRY.fullmatch(entry) is None:
            raise FetchError(
                f"--credential-hosts must hold hosts as in 'host', 'host:port', '*.host', "
                f"'http://host' or '{AWS}', got '{entry[:100]}'"
            )
    return CredentialHosts(entries)


def check_agent(environment: Mapping[str, str], hosts: CredentialHosts) -> None:
    """Refuse to ask a stranger for AWS' credentials: the request would carry a token from a file.

    Raises:
        FetchError: AWS_CONTAINER_CREDENTIALS_FULL_URI leads there.
    """
    name = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    url = environment.get(name, "")
    if url and urlsplit(url).hostname not in AGENTS and not hosts.admits(url):
        raise hosts.why_not(f"the token that {name} asks for", url)


def _admits(entry: str, scheme: str, host: str, port: int) -> bool:
    match = ENTRY.fullmatch(entry)
    if match is None or entry == AWS:
        return False
    wanted = match["host"]
    if wanted == "*":
        named, usual = True, None
    else:
        named = host.endswith(wanted[1:]) if wanted.startswith("*.") else host == wanted
        usual = PORTS[match["scheme"] or "https"]
    asked = int(match["port"]) if match["port"] else usual
    return named and scheme == (match["scheme"] or "https") and asked in (None, port)
