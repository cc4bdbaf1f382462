"""The flags of `serve`: what they become, and one sentence for every wrong one."""

from pathlib import Path

import pytest

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.server.flags import parse
from steelyard_runtime.server.settings import is_loopback

MODEL = ["--model", "package://some-model/dir/Some-Model.gguf"]


def test_defaults_are_the_contracts() -> None:
    """Without flags the values are those of docs/contract.md."""
    settings, engine = parse(MODEL, {})

    assert settings.served_model_name == "Some-Model.gguf"
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 8000, 8001)
    assert (settings.service_token, settings.api_keys) == ("", ())
    assert settings.max_request_bytes == 10 * 1024 * 1024
    assert (settings.sse_keepalive_seconds, settings.drain_timeout_seconds) == (15.0, 30.0)
    assert (engine.role, engine.device, engine.dtype, engine.block_size) == (
        "both",
        "cpu",
        "auto",
        16,
    )
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (32, 256)
    assert engine.kv_cache_bytes is None
    assert (engine.gpu_memory_utilization, engine.enforce_eager) == (0.9, False)
    assert engine.prefix_caching
    assert engine.transfer.port == 5600
    assert engine.transfer.peers == ("127.0.0.0/8",)
    assert len(engine.engine_id) == 32


def test_flags_reach_both_processes() -> None:
    """Flags fill the settings of the HTTP process and the configuration of the engine."""
    flags = (
        "--served-model-name m --host 0.0.0.0 --port 1 --admin-port 2 --kv-host 10.0.0.7 "
        "--kv-port 3 --role prefill --dtype float32 --max-model-len 99 --block-size 32 "
        "--kv-cache-memory-bytes 2G --num-gpu-blocks-override 50 --max-num-seqs 4 "
        "--max-num-batched-tokens 64 --max-waiting-requests 9 --no-enable-prefix-caching "
        "--kv-transport tcp --kv-peers 10.0.0.0/8,192.168.0.1 --kv-lease-seconds 5 "
        "--kv-transfer-deadline-seconds 2.5 --allowed-origins https://a,https://b --threads 2 "
        "--max-request-bytes 1K --log-level debug --gpu-memory-utilization 0.5 --enforce-eager"
    )

    settings, engine = parse([*MODEL, *flags.split()], {})

    assert settings.allowed_origins == ("https://a", "https://b")
    assert settings.max_request_bytes == 1024
    assert settings.max_num_seqs == 4
    assert (engine.role, engine.max_model_len, engine.num_blocks) == ("prefill", 99, 50)
    assert (engine.kv_cache_bytes, engine.threads) == (2 * 1024**3, 2)
    assert (engine.gpu_memory_utilization, engine.enforce_eager) == (0.5, True)
    assert not engine.prefix_caching
    transfer = engine.transfer
    assert (transfer.listen_host, transfer.advertise_host, transfer.port) == (
        "0.0.0.0",  # the flag's value
        "10.0.0.7",
        3,
    )
    assert transfer.peers == ("10.0.0.0/8", "192.168.0.1")
    assert (transfer.lease_seconds, transfer.deadline_seconds) == (5.0, 2.5)


def test_secrets_come_from_files_or_the_environment(tmp_path: Path) -> None:
    """A file wins over the environment; the token also goes to the KV side channel."""
    token, keys = tmp_path / "token", tmp_path / "keys"
    token.write_text("from-file\n")
    keys.write_text("one\n\n two \n")
    environment = {"STEELYARD_SERVICE_TOKEN": "from-env", "STEELYARD_API_KEY": "env-key"}

    by_environment, engine = parse(MODEL, environment)
    by_file, _ = parse(
        [*MODEL, "--service-token-file", str(token), "--api-key-file", str(keys)], environment
    )

    assert (by_environment.service_token, by_environment.api_keys) == ("from-env", ("env-key",))
    assert engine.transfer.token == "from-env"  # a test's
    assert (by_file.service_token, by_file.api_keys) == ("from-file", ("one", "two"))


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("decode\n", "decode"),
        ('steelyard.dev/prefill="true"\nsteelyard.dev/service="x"\n', "prefill"),
        ('steelyard.dev/decode="true"\nsteelyard.dev/prefill="true"', "both"),
        ('steelyard.dev/service="x"', "prefill"),
        ("", "prefill"),
    ],
    ids=["bare", "label", "both labels", "no role label", "empty"],
)
def test_role_file_wins_where_it_names_a_role(tmp_path: Path, text: str, role: str) -> None:
    """The file holds a role or a pod's labels; without a role in it the flag counts."""
    path = tmp_path / "role"
    path.write_text(text)

    _, engine = parse([*MODEL, "--role", "prefill", "--role-file", str(path)], {})

    assert engine.role == role


def test_chat_template_is_read_and_in_force(tmp_path: Path) -> None:
    """The template's text goes to both processes: it is a part of the fingerprint."""
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages }}")

    settings, engine = parse([*MODEL, "--chat-template", str(path)], {})

    assert settings.chat_template == engine.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--model"),
        (["--model", ""], "--model"),
        ([*MODEL, "--port", "x"], "--port: must be an integer from 0 to 65535, got 'x'"),
        ([*MODEL, "--port", "65536"], "--port"),
        ([*MODEL, "--port", "8001"], "--admin-port: must differ from --port, got 8001"),
        ([*MODEL, "--kv-port", "8000"], "--kv-port: must differ"),
        ([*MODEL, "--role", "draft"], "--role: must be one of prefill, decode, both"),
        ([*MODEL, "--device", "tpu"], "--device"),
        ([*MODEL, "--dtype", "int8"], "--dtype"),
        ([*MODEL, "--max-model-len", "0"], "--max-model-len"),
        ([*MODEL, "--kv-cache-memory-bytes", "12T"], "--kv-cache-memory-bytes"),
        ([*MODEL, "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        ([*MODEL, "--max-num-seqs", "1.5"], "--max-num-seqs"),
        ([*MODEL, "--kv-peers", "10.0.0.0/40"], "--kv-peers"),
        ([*MODEL, "--kv-lease-seconds", "nan"], "--kv-lease-seconds"),
        ([*MODEL, "--drain-timeout-seconds", "-1"], "--drain-timeout-seconds"),
        ([*MODEL, "--service-token-file", "/nonexistent"], "--service-token-file: cannot read"),
        ([*MODEL, "--chat-template", "/"], "--chat-template: cannot read"),
        ([*MODEL, "--log-level", "loud"], "--log-level"),
        ([*MODEL, "--no-such-flag"], "--no-such-flag"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_wrong_flags_are_one_sentence(arguments: list[str], named: str) -> None:
    """The sentence names the flag, what was given and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        parse(arguments, {})

    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_role_file_with_something_else_is_refused(tmp_path: Path) -> None:
    """A file that holds neither a role nor labels is an error."""
    path = tmp_path / "role"
    path.write_text("wizard")

    with pytest.raises(ConfigError, match="must hold prefill, decode or both"):
        parse([*MODEL, "--role-file", str(path)], {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("x", False),
    ],  # values
)
def test_loopback_hosts(host: str, expected: bool) -> None:
    """Only addresses that other machines cannot reach are loopback."""
    assert is_loopback(host) is expected
