"""What the HTTP process of a worker is told to do; `flags.py` alone reads flags."""

from dataclasses import dataclass


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
