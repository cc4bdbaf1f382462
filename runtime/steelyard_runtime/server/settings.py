"""What the HTTP process of a worker is told to do; `flags.py` alone reads flags."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from steelyard_runtime.server.connections import ConnectionLimits


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of the HTTP process; those of the engine process are in `EngineConfig`."""

    model: str
    served_model_name: str
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    admin_port: int = 8001
    service_token: str = ""
    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None  # where they are from; read again when it changes
    allowed_origins: tuple[str, ...] = ()
    max_request_bytes: int = 10 * 1024 * 1024
    sse_keepalive_seconds: float = 15.0
    drain_timeout_seconds: float = 30.0
    linger_seconds: float = 5.0  # how long a silent connection is kept after the drain
    max_num_seqs: int = 32
    max_waiting_requests: int = 256
    chat_template: str | None = None  # the text, already read from its file
    tool_call_parser: str = "hermes"
    reasoning_parser: str | None = None
    log_level: str = "info"
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)  # no flags

    @property
    def is_exposed(self) -> bool:
        """Whether other machines reach ports that no service token guards.

        Then the admin port refuses every request, and no KV moves.
        """
        return not self.service_token and not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
