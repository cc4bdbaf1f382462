"""What a router process was told to do; `command.py` fills it from flags. Nothing is read here."""

from dataclasses import dataclass
from pathlib import Path

from steelyard_runtime.router.keys import ApiKey


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The two Services of a cluster whose endpoints are the workers."""

    namespace: str
    prefill_service: str
    decode_service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """The router's configuration; durations in seconds, sizes in bytes."""

    served_model_name: str
    # Where the workers are found: exactly one of these two.
    membership_file: Path | None = None
    endpoints: Endpoints | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[ApiKey, ...] = ()  # none: the port is open
    api_keys_file: Path | None = None  # where they are from; read again when it changes
    worker_api_key: str = ""
    worker_api_key_file: Path | None = None
    min_remote_prefill_tokens: int = 64
    prefill_timeout_seconds: float = 60.0
    queue_timeout_seconds: float = 30.0
    # How long a request waits for a decode worker while a prefill worker could serve it.
    last_resort_seconds: float = 2.0
    # A worker that is silent for this long on a request is probed. Without an answer it gets no new
    # requests; it keeps those that it has for as long as the patience, unless it cannot be reached.
    stall_seconds: float = 5.0
    probe_timeout_seconds: float = 2.0
    patience_seconds: float = (
        10.0  # an event loop was held for 5 to 24 s before bodies were bounded
    )
    connect_timeout_seconds: float = 2.0
    max_attempts: int = 4  # workers that may fail under one request
    max_request_bytes: int = 10 * 1024 * 1024
    # How slow a client may be: with its headers, with its body, and with reading its answer.
    head_seconds: float = 15.0
    body_grace_seconds: float = 20.0
    reader_seconds: float = 30.0
    max_connections: int = 4096  # of clients
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # beside loopback names, on loopback without keys
    sse_keepalive_seconds: float = 15.0
    drain_timeout_seconds: float = 30.0
    # How long a silent connection is kept while the router drains; within the drain's time.
    linger_seconds: float = 5.0
    membership_poll_seconds: float = 0.2
