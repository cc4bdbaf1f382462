"""The flags of `steelyard-runtime serve` and how they become settings.

Every wrong value is one `ConfigError` sentence that names the flag, what was given and what is
allowed. Secrets come from files or the environment, never from argv.
"""

import argparse
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from steelyard_runtime.config import EngineConfig, TransferConfig
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.server.flag_values import (
    addresses,
    byte_count,
    count,
    one_of,
    pause_seconds,
    port,
    positive_seconds,
    share,
    text,
)
from steelyard_runtime.server.key_file import keys_of
from steelyard_runtime.server.role_file import read_role_file
from steelyard_runtime.server.settings import ServerSettings

SERVICE_TOKEN_VARIABLE = "STEELYARD_SERVICE_TOKEN"  # noqa: S105  # a variable's name, no secret
API_KEY_VARIABLE = "STEELYARD_API_KEY"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `docs/contract.md` section 1 lists the same flags."""
    parser = _Parser(prog="steelyard-runtime serve", allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, type=text, metavar="URI")
    add("--served-model-name", type=text, metavar="NAME")
    add("--host", default="127.0.0.1", metavar="ADDRESS")
    add("--port", type=port, default=8000, metavar="N")
    add("--admin-port", type=port, default=8001, metavar="N")
    add("--kv-host", metavar="ADDRESS")
    add("--kv-port", type=port, default=5600, metavar="N")
    add("--role", type=one_of("prefill", "decode", "both"), default="both")
    add("--role-file", type=Path, metavar="PATH")
    add("--device", type=one_of("cpu", "cuda"), default="cpu")
    add("--dtype", type=one_of("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--max-model-len", type=count(1), metavar="N")
    add("--block-size", type=count(1, 256), default=16, metavar="N")
    add("--kv-cache-memory-bytes", type=byte_count, metavar="N")
    add("--gpu-memory-utilization", type=share, default=0.9, metavar="X")
    add("--enforce-eager", action="store_true")
    add("--num-gpu-blocks-override", type=count(1), metavar="N")
    add("--max-num-seqs", type=count(1, 65536), default=32, metavar="N")
    add("--max-num-batched-tokens", type=count(1), default=256, metavar="N")
    add("--max-waiting-requests", type=count(0), default=256, metavar="N")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add("--chat-template", type=Path, metavar="FILE")
    add("--tool-call-parser", type=text, default="hermes", metavar="NAME")
    add("--reasoning-parser", type=text, metavar="NAME")
    add("--kv-transport", type=one_of("auto", "tcp", "nixl"), default="auto")
    add("--kv-peers", type=addresses, default=("127.0.0.0/8",), metavar="CIDR[,CIDR]")
    add("--kv-lease-seconds", type=positive_seconds, default=30.0, metavar="S")
    add("--kv-transfer-deadline-seconds", type=positive_seconds, default=10.0, metavar="S")
    add("--service-token-file", type=Path, metavar="PATH")
    add("--api-key-file", type=Path, metavar="PATH")
    add("--allowed-origins", default="", metavar="ORIGIN[,ORIGIN]")
    add("--max-request-bytes", type=byte_count, default=10 * 1024**2, metavar="N")
    add("--sse-keepalive-seconds", type=positive_seconds, default=15.0, metavar="S")
    add("--drain-timeout-seconds", type=positive_seconds, default=30.0, metavar="S")
    add("--linger-seconds", type=pause_seconds, default=5.0, metavar="S")
    add("--threads", type=count(1, 4096), metavar="N")
    levels = one_of("debug", "info", "warning", "error")
    add("--log-level", type=levels, default="info")
    return parser


def parse(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[ServerSettings, EngineConfig]:
    """Return the settings of both processes.

    `EngineConfig.chat_template` is only set where `--chat-template` was given; the caller fills
    in the checkpoint's own.

    Raises:
        ConfigError: a flag, a file or the environment is wrong.
    """
    given = build_parser().parse_args(list(arguments))
    token = _secret(
        given.service_token_file, "--service-token-file", SERVICE_TOKEN_VARIABLE, environment
    )
    template = None
    if given.chat_template is not None:
        template = _text(given.chat_template, "--chat-template")
    role = given.role
    if given.role_file is not None:
        role = read_role_file(_text(given.role_file, "--role-file"), given.role_file) or role
    _distinct_ports(given)
    settings = ServerSettings(
        model=given.model,
        served_model_name=given.served_model_name or _last_part(given.model),
        host=given.host,
        port=given.port,
        admin_port=given.admin_port,
        service_token=token.strip(),
        api_keys=_api_keys(given.api_key_file, environment),
        api_key_file=given.api_key_file,
        allowed_origins=tuple(o.strip() for o in given.allowed_origins.split(",") if o.strip()),
        max_request_bytes=given.max_request_bytes,
        sse_keepalive_seconds=given.sse_keepalive_seconds,
        drain_timeout_seconds=given.drain_timeout_seconds,
        linger_seconds=given.linger_seconds,
        max_num_seqs=given.max_num_seqs,
        max_waiting_requests=given.max_waiting_requests,
        chat_template=template,
        tool_call_parser=given.tool_call_parser,
        reasoning_parser=given.reasoning_parser,
        log_level=given.log_level,
    )
    engine = EngineConfig(
        model=given.model,
        engine_id=uuid.uuid4().hex,
        role=role,
        device=given.device,
        dtype=given.dtype,
        max_model_len=given.max_model_len,
        block_size=given.block_size,
        num_blocks=given.num_gpu_blocks_override,
        kv_cache_bytes=given.kv_cache_memory_bytes,
        gpu_memory_utilization=given.gpu_memory_utilization,
        enforce_eager=given.enforce_eager,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_waiting_requests=given.max_waiting_requests,
        prefix_caching=given.enable_prefix_caching,
        threads=given.threads,
        chat_template=template,
        transfer=TransferConfig(
            transport=given.kv_transport,
            listen_host=given.host,
            advertise_host=given.kv_host or given.host,
            port=given.kv_port,
            peers=given.kv_peers,
            token=settings.service_token,
            lease_seconds=given.kv_lease_seconds,
            deadline_seconds=given.kv_transfer_deadline_seconds,
            enabled=not settings.is_exposed,
        ),
    )
    return settings, engine


def _distinct_ports(given: argparse.Namespace) -> None:
    ports: dict[int, str] = {}
    for flag in ("--port", "--admin-port", "--kv-port"):
        number: int = getattr(given, flag[2:].replace("-", "_"))
        if number and number in ports:
            raise ConfigError(f"{flag}: must differ from {ports[number]}, got {number} for both")
        ports[number] = flag


def _last_part(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _text(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise ConfigError(f"{flag}: cannot read '{path}': {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{flag}: '{path}' must be UTF-8 text") from None


def _secret(path: Path | None, flag: str, variable: str, environment: Mapping[str, str]) -> str:
    if path is None:
        return environment.get(variable, "")
    text = _text(path, flag)
    if not text.strip():
        raise ConfigError(f"{flag}: '{path}' must not be empty")
    return text


def _api_keys(path: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    text = _secret(path, "--api-key-file", API_KEY_VARIABLE, environment)
    return keys_of(text)
