"""Real workers and routers on SmolLM2, shared by all tests of this folder, and clients for them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from steelyard_runtime.testing.processes import Router, Worker
from steelyard_runtime.testing.services import (
    Pair,
    router_over,
    settle,
    smollm2_pair,
    smollm2_worker,
)

API_KEY = "sk-interop"

STORY = (
    "The harbour master kept a ledger of every ship that came in from the northern islands. "
    "Each morning he walked along the pier, counted the barrels and the crates, and wrote down "
    "what the captains told him about the weather, the price of salt and the mood of the sea. "
    "Nobody had ever asked him why he did it, until a young clerk arrived from the capital. "
)


@dataclass(frozen=True, slots=True)
class Service:
    """A base address and the processes behind it."""

    name: str
    url: str
    workers: tuple[Worker, ...]
    router: Router | None = None
    pair: Pair | None = None


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of the session write their logs."""
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="session")
def colocated(folder: Path) -> Iterator[Service]:
    """One worker that does everything; it asks for an API key."""
    flags = ("--max-waiting-requests", "16")
    with smollm2_worker(folder, "colocated", flags=flags, api_key=API_KEY) as worker:
        yield Service("colocated", worker.wait_ready().url, (worker,))


@pytest.fixture(scope="session")
def tcp_pair(folder: Path) -> Iterator[Pair]:
    """A prefill and a decode worker on our own transport."""
    with smollm2_pair(folder, "tcp") as pair:
        yield pair


@pytest.fixture(scope="session")
def nixl_pair(folder: Path) -> Iterator[Pair]:
    """A prefill and a decode worker on NIXL."""
    pytest.importorskip("nixl_cu13", reason="NIXL exists for Linux only")
    with smollm2_pair(folder, "nixl") as pair:
        yield pair


def _split(folder: Path, name: str, pair: Pair) -> Iterator[Service]:
    keys = folder / f"{name}-keys.json"
    strict = {"name": "strict", "key": "sk-strict", "requestsPerMinute": 1}
    keys.write_text(json.dumps({"keys": [{"name": "interop", "key": API_KEY}, strict]}))
    with router_over(folder / name, pair, ("--api-keys-file", str(keys))) as router:
        yield Service(name, router.url, (pair.prefill, pair.decode), router, pair)


@pytest.fixture(scope="session")
def tcp(folder: Path, tcp_pair: Pair) -> Iterator[Service]:
    """Our router over a pair on TCP; it asks for an API key and limits another one."""
    yield from _split(folder, "tcp", tcp_pair)


@pytest.fixture(scope="session")
def nixl(folder: Path, nixl_pair: Pair) -> Iterator[Service]:
    """Our router over a pair on NIXL, with keys as above."""
    yield from _split(folder, "nixl", nixl_pair)


@pytest.fixture(scope="session", params=["colocated", "tcp", "nixl"])
def service(request: pytest.FixtureRequest) -> Service:
    """Each way of serving in turn."""
    found: Service = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """The official client; afterwards nothing may be held and no transfer may have failed."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=API_KEY, max_retries=0) as made:
        yield made
    settle(*service.workers)
    if service.pair is not None:
        assert not any(service.pair.failures.values()), service.pair.failures


@pytest.fixture
def story(request: pytest.FixtureRequest) -> str:
    """A prompt of about 90 tokens that no other test has sent, so that its prefill is remote."""
    return f"{request.node.name}. {STORY}"
