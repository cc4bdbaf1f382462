"""A token and a signature go to the hosts that are listed, whatever leads elsewhere."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.credential_hosts import check_agent, parse_credential_hosts

AGENT = "169.254.170.23"  # as AWS documents it
SAID = "must not be sent to http://127.0.0.1:"


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str | None]]]:
    """A server that is not listed, and the Authorization headers that it was sent."""
    came: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append(self.headers.get("Authorization"))
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("hosts", [None, "127.0.0.1", "*"])
def test_a_token_is_not_sent_to_a_host_that_is_not_listed(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str | None
) -> None:
    """Nor in plain text where nobody asked for that; without a token the hub is read."""
    monkeypatch.setenv("STEELYARD_CREDENTIAL_HOSTS", "" if hosts is None else hosts)
    if hosts is None:
        monkeypatch.delenv("STEELYARD_CREDENTIAL_HOSTS")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with_token = fetch("hf://org/name", "--to", tmp_path / "a")
    monkeypatch.delenv("HF_TOKEN")
    without = fetch("hf://org/name", "--to", tmp_path / "b")

    assert (with_token.code, without.code) == (2, 0)
    assert f"HF_TOKEN {SAID}" in with_token.said
    assert "STEELYARD_CREDENTIAL_HOSTS or --credential-hosts must list it" in with_token.said
    assert hub.signatures == []


def test_a_flag_wins_over_the_variable(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes the command line says it, not who writes the environment."""
    hub.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    refused = fetch("hf://org/name", "--to", tmp_path, "--credential-hosts", "huggingface.co")
    allowed = fetch("hf://org/name", "--to", tmp_path, "--credential-hosts", hub.url)

    assert (refused.code, allowed.code) == (2, 0)


@pytest.mark.parametrize("entry", ["a b", "http://a/b", "a:b", "*a"])
def test_a_list_of_another_form(hub: Any, fetch: Any, tmp_path: Path, entry: str) -> None:
    """It is told before anything is asked."""
    ran = fetch("hf://org/name", "--to", tmp_path, "--credential-hosts", entry)

    assert ran.code == 2
    assert "--credential-hosts must hold hosts as in" in ran.said
    assert entry in ran.said


@pytest.mark.parametrize("secret", ["user: a\npassword: b", "a b", "ä", "a\0b"])
def test_a_secret_that_is_no_token_is_not_shown(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """The sentence ends up in the pod's status, which more people read than Secrets."""
    monkeypatch.setattr("os.environ", os.environ.copy() | {"HF_TOKEN": secret})
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == 2
    assert ran.said == (
        "steelyard-runtime: fetch: HF_TOKEN must be a token: one line of letters, digits, signs\n"
    )
    assert hub.asked == []


def test_a_line_end_after_a_token_is_none_of_it(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`echo` writes one into many Secrets."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")

    assert fetch("hf://org/name", "--to", tmp_path).code == 0
    assert set(hub.signatures) == {"Bearer hf_secret"}


def test_a_hub_is_asked_for_the_model_alone(hub: Any, fetch: Any, tmp_path: Path) -> None:
    """Its library would first ask which programs it knows."""
    assert fetch("hf://org/name", "--to", tmp_path).code == 0
    assert {path.split("/org/name")[0] for path in hub.asked} == {"/api/models", ""}


def test_a_redirect_takes_no_token_along(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: Any
) -> None:
    """Hubs redirect to where the bytes lie; what opens them is in the address."""
    hub.redirect = f"{stranger[0]}/bytes"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == 2
    assert set(stranger[1]) == {None}
    assert set(hub.signatures) == {"Bearer hf_secret"}


@pytest.mark.parametrize("hosts", ["huggingface.co,aws", "127.0.0.1"])
def test_a_signature_is_not_sent_to_a_host_that_is_not_listed(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    """A bucket without credentials is read anywhere."""
    signed = fetch("s3://models/folder", "--to", tmp_path / "a", "--credential-hosts", hosts)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    unsigned = fetch("s3://models/folder", "--to", tmp_path / "b", "--credential-hosts", hosts)

    assert (signed.code, unsigned.code) == (2, 0)
    assert f"credentials {SAID}" in signed.said
    assert bucket.signatures == []


def test_an_endpoint_in_the_credentials_file_is_held_to_the_list_too(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: Any
) -> None:
    """AWS' tools take more from that file than two halves of a key."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    with (tmp_path / "credentials").open("a") as file:
        file.write(f"endpoint_url = {stranger[0]}\n")
    ran = fetch("s3://models/folder", "--to", tmp_path / "to")

    assert ran.code == 2
    assert f"credentials {SAID}" in ran.said
    assert stranger[1] == []


def test_the_endpoint_of_all_of_aws_is_that_of_buckets_alone(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a pod's identity is exchanged for credentials is not a resource's to say."""
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    token = tmp_path / "token"
    token.write_text("the pod's identity")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/a")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HTTPS_PROXY", bucket.url)  # nothing leaves this machine
    ran = fetch("s3://models/folder", "--to", tmp_path / "to")

    assert ran.code in (1, 2)
    assert bucket.signatures == []
    assert bucket.ranges == []


@pytest.mark.parametrize(
    "url", ["http://evil.example", "https://evil.example/c", f"https://{AGENT}@evil.example"]
)
def test_no_stranger_is_asked_for_credentials(url: str) -> None:
    """The request would carry what AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE holds: any Secret."""
    hosts = parse_credential_hosts("huggingface.co,aws")

    with pytest.raises(FetchError, match=r"must not be sent to (http://)?evil\.example"):
        check_agent({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}, hosts)
    check_agent({"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{AGENT}/v1"}, hosts)


AWS_NAMES = {
    "s3.amazonaws.com": True,
    "s3.eu-central-1.amazonaws.com": True,
    "models.s3.eu-central-1.amazonaws.com": True,
    "models.with.dots.s3.dualstack.eu-central-1.amazonaws.com": True,
    "s3.cn-north-1.amazonaws.com.cn": True,
    "models.s3express-use1-az4.us-east-1.amazonaws.com": True,
    "bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com": True,
    "s3abc.execute-api.us-east-1.amazonaws.com": False,
    "abc.execute-api.us-east-1.amazonaws.com": False,
    "ec2-1-2-3-4.compute-1.amazonaws.com": False,
    "s3.amazonaws.com.evil.example": False,
    "s3.evil.example": False,
}


@pytest.mark.parametrize(("host", "admitted"), AWS_NAMES.items(), ids=AWS_NAMES)
def test_aws_is_its_storage_alone(host: str, admitted: bool) -> None:
    """Other names of AWS answer with anybody's program."""
    hosts, https = parse_credential_hosts("aws"), "https://"

    assert hosts.admits_bucket(f"{https}{host}/key", "models") is admitted
    assert not hosts.admits_bucket(f"http://{host}/key", "models")
    assert not hosts.admits(f"{https}{host}/key")
