"""Fuzzing the HTTP surface: no crash, no hang, one error shape, nothing left behind.

Schemathesis draws requests from `/openapi.json`, valid and invalid; hypothesis draws bodies and raw
bytes that no schema describes. The worker is a process, so that a crash of it is seen.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
# Path, method, kind of request, examples; an endpoint without input has no invalid input.
OPERATIONS = [
    ("/v1/completions", "post", VALID, 40),
    ("/v1/completions", "post", INVALID, 40),
    ("/v1/chat/completions", "post", VALID, 40),
    ("/v1/chat/completions", "post", INVALID, 40),
    ("/tokenize", "post", VALID, 20),
    ("/tokenize", "post", INVALID, 20),
    ("/detokenize", "post", VALID, 15),
    ("/detokenize", "post", INVALID, 15),
    ("/v1/models", "get", VALID, 1),
    ("/v1/models/{name}", "get", VALID, 5),
    ("/version", "get", VALID, 1),
    ("/health", "get", VALID, 1),
    ("/ready", "get", VALID, 1),
    ("/metrics", "get", VALID, 1),
]
TIMEOUT_SECONDS = 10.0
FIELDS = (
    "prompt messages model n stream max_tokens stop logprobs echo tools tool_choice steelyard "
    "kv_transfer_params response_format logit_bias temperature seed stop_token_ids x"
)


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker process; in the end it must live, drained of every request."""
    log = tmp_path_factory.mktemp("fuzz") / "log"
    flags = "--served-model-name fake --port 0 --admin-port 0 --kv-port 0 --max-model-len 512"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "steelyard_runtime.testing.fake_engine_worker"),
                *("--model", str(model), *flags.split()),
            ],
            stderr=output,
            env={**os.environ, "STEELYARD_FAKE_ENGINE": "{}"},
        )
    try:
        ports = _ports(process, log)
        base, admin = (f"http://127.0.0.1:{port}" for port in ports)
        _until(lambda: httpx.get(f"{base}/ready").status_code == 200)
        yield base
        _until(lambda: httpx.get(f"{admin}/state").json()["inFlight"] == 0)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def _until(condition: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r'"port": (\d+), "admin_port": (\d+)', log.read_text())
        if found:
            return int(found[1]), int(found[2])
        time.sleep(0.02)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS) as opened:
        yield opened


@pytest.fixture(scope="module")
def schema(client: httpx.Client) -> Any:
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


def check_error_shape(response: httpx.Response) -> None:
    """Every error is OpenAI's object."""
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]


@pytest.mark.parametrize("drawn", OPERATIONS, ids=lambda drawn: f"{drawn[0]}-{drawn[2].value}")
def test_answers_are_as_documented(
    schema: Any, client: httpx.Client, drawn: tuple[str, str, schemathesis.GenerationMode, int]
) -> None:
    """Whatever the schema allows or forbids, status, type and body are documented ones."""
    path, method, mode, examples = drawn
    load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    operation = schema[path][method]

    @settings(FUZZ, max_examples=examples)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        response = case.call(base_url=str(client.base_url), timeout=TIMEOUT_SECONDS)
        case.validate_response(response, checks=checks)

    run()


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON, with the values that break parsers."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8)
        | st.sampled_from(["fake", "auto", "required", "json_object", "\0", "<|im_end|>"])
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(FIELDS.split()) | st.text(max_size=4), inner)
        ),
        max_leaves=6,
    )


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_any_json_object_is_answered(client: httpx.Client, path: str) -> None:
    """Objects of known fields with arbitrary values are answered 200 or with an error object."""
    messages = [{"role": "user", "content": "x"}]

    @settings(FUZZ, max_examples=80)
    @given(fields=st.dictionaries(st.sampled_from(FIELDS.split()), json_values(), max_size=5))
    def run(fields: dict[str, Any]) -> None:
        body = {"prompt": "x", **fields} if path != "/v1/chat/completions" else fields
        body = {"messages": messages, **body} if path == "/v1/chat/completions" else body
        response = client.post(path, json=body)
        assert response.status_code in (200, 400, 404)
        check_error_shape(response)

    run()


def test_any_body_and_headers_are_answered(client: httpx.Client) -> None:
    """Arbitrary bytes under arbitrary headers get a 4xx in the one shape."""
    values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip)
    names = st.sampled_from(["content-type", "authorization", "x-request-id", "accept", "origin"])

    @settings(FUZZ, max_examples=80)
    @given(body=st.binary(max_size=200), headers=st.dictionaries(names, values))
    def run(body: bytes, headers: dict[str, str]) -> None:
        given_headers = {"content-type": "application/json", **headers}
        response = client.post("/v1/completions", content=body, headers=given_headers)
        assert 400 <= response.status_code < 500
        check_error_shape(response)

    run()


def test_any_path_and_method_are_answered(client: httpx.Client) -> None:
    """Unknown paths and methods are 404 and 405 in the one shape."""
    alphabet = st.sampled_from("abv1/%.?=-_~")
    methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"])

    @settings(FUZZ, max_examples=60)
    @given(path=st.text(alphabet, max_size=12), method=methods)
    def run(path: str, method: str) -> None:
        response = client.request(method, "/v1/" + path)
        assert response.status_code in (200, 401, 404, 405, 415)
        check_error_shape(response)

    run()


def test_raw_bytes_do_not_stop_the_server(url: str, client: httpx.Client) -> None:
    """Broken HTTP ends its own connection; the next request is answered."""
    port = int(url.rpartition(":")[2])
    starts = st.sampled_from(
        [
            b"",
            b"POST /v1/completions HTTP/1.1\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 9999\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: [::1]\r\nContent-Length: -1\r\n\r\n",
        ]
    )

    @settings(FUZZ, max_examples=40)
    @given(start=starts, rest=st.binary(max_size=100))
    def run(start: bytes, rest: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as raw:
            raw.sendall(start + rest)

    run()
    assert client.get("/health").status_code == 200
    body = json.dumps({"prompt": "x", "max_tokens": 1})
    headers = {"content-type": "application/json"}
    assert client.post("/v1/completions", content=body, headers=headers).status_code == 200
