"""docs/contract.md against a running service: endpoints, state and metric names are there.

One service for the whole file, started as a user starts it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs/contract.md").read_text()
SAMPLE = ROOT / "manifests/samples/smollm2.yaml"
COMMAND = [sys.executable, "-m", "steelyard_operator.cli", "up", str(SAMPLE)]
COMMAND += ["--port", "0", "--json", "--verbose"]


@dataclass
class Service:
    """Addresses of a running service, and its token."""

    router: str
    worker: str
    admin: str
    token: str

    def call(self, method: str, url: str, body: Any = None, token: str = "") -> tuple[int, str]:
        """Return status and text of a call."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`steelyard up` on the sample, as a user starts it."""
    temporary = tmp_path_factory.mktemp("up")
    packages = os.pathsep.join(str(ROOT / name) for name in ("operator", "runtime", "kernels"))
    log = temporary / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            COMMAND,
            env={**os.environ, "PYTHONPATH": packages, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        listening = [text for text in log.read_text().splitlines() if '"listening"' in text]
        worker = next(text for text in listening if text.startswith("smollm2-1"))
        ports = json.loads(worker[worker.index("{") :])
        (token,) = temporary.glob("*/service-token")
        yield Service(
            router=json.loads(line)["url"],
            worker=f"http://127.0.0.1:{ports['port']}",
            admin=f"http://127.0.0.1:{ports['admin_port']}",
            token=token.read_text(),
        )
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def section(number: int) -> str:
    """Return one numbered section of the contract."""
    return CONTRACT.split(f"\n## {number}. ")[1].split("\n## ")[0]


SERVING = re.findall(r"`(GET|POST) (/[a-z0-9_./]+)`", section(2).split("\n\n")[1])


def test_the_contract_lists_the_serving_endpoints() -> None:
    """The table that drives the next test is read from the contract."""
    assert ("POST", "/v1/chat/completions") in SERVING
    assert len(SERVING) >= 10


@pytest.mark.parametrize(("method", "path"), SERVING)
def test_a_worker_has_the_endpoint(service: Service, method: str, path: str) -> None:
    """Every endpoint of section 2 is there: an empty body is refused, not unknown."""
    status, text = service.call(method, service.worker + path, {} if method == "POST" else None)

    assert status == (400 if method == "POST" else 200), text


@pytest.mark.parametrize(
    ("method", "path"), [pair for pair in SERVING if pair[1] != "/openapi.json"]
)
def test_the_router_has_the_endpoint(service: Service, method: str, path: str) -> None:
    """A client finds at the router what it finds at a worker."""
    status, text = service.call(method, service.router + path, {} if method == "POST" else None)

    assert status == (400 if method == "POST" else 200), text


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize("side", ["router", "worker"])
def test_what_is_not_supported_says_what_is(service: Service, side: str, path: str) -> None:
    """An unknown path is 404 in OpenAI's shape, and its message names the supported ones."""
    status, text = service.call("POST", getattr(service, side) + path, {})

    assert status == 404
    assert "/v1/chat/completions" in json.loads(text)["error"]["message"]


def test_the_state_has_the_contracts_fields(service: Service) -> None:
    """`GET /state` answers with every field of section 3."""
    documented = re.search(r"`GET /state` \| `(\{.*?\})` \|", section(3))
    assert documented is not None
    fields = set(re.findall(r'"(\w+)"', documented[1])) - {"http"}
    status, text = service.call("GET", f"{service.admin}/state", token=service.token)
    state = json.loads(text)

    assert status == 200
    assert fields == {*state, *state["blocks"]}
    assert (state["role"], state["phase"], state["inFlight"]) == ("decode", "ready", 0)


@pytest.mark.parametrize("call", [("GET", "/state"), ("POST", "/drain"), ("POST", "/role")])
def test_the_admin_port_wants_the_token(service: Service, call: tuple[str, str]) -> None:
    """Without the service's token every admin call is 401."""
    method, path = call
    status, _ = service.call(method, service.admin + path, {} if method == "POST" else None, "x")

    assert status == 401


def documented_metrics(prefix: str) -> list[str]:
    """Return the metric names of section 6 that start with a prefix, without their labels."""
    return sorted(set(re.findall(rf"`({prefix}:[a-z0-9_]+)", section(6))))


def families(service: Service, url: str) -> set[str]:
    """Return the names of the metric families of a page; counters with their `_total`."""
    _, page = service.call("GET", f"{url}/metrics")
    return set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE))


@pytest.mark.parametrize("name", documented_metrics("steelyard"))
def test_a_worker_has_the_metric(service: Service, name: str) -> None:
    """Each worker metric of section 6 is a family of a worker's page."""
    assert name in families(service, service.worker)


@pytest.mark.parametrize("name", documented_metrics("steelyard_router"))
def test_the_router_has_the_metric(service: Service, name: str) -> None:
    """Each router metric of section 6 is a family of the router's page."""
    assert name in families(service, service.router)


def test_every_worker_series_carries_the_role(service: Service) -> None:
    """Dashboards can tell prefill from decode on any series of ours and of vLLM's names."""
    _, page = service.call("GET", f"{service.worker}/metrics")
    series = [line for line in page.splitlines() if re.match(r"(vllm|steelyard):", line)]

    assert series
    assert [line for line in series if 'role="decode"' not in line] == []
