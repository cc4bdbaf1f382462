"""A worker's HTTP process over a fake engine, for every test of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from steelyard_runtime.testing.byte_tokenizer import write_byte_tokenizer
from steelyard_runtime.testing.http_worker import Rig, running_worker


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory with a tokenizer whose ids are bytes, and no weights."""
    return write_byte_tokenizer(tmp_path_factory.mktemp("byte-model"))


@pytest.fixture(scope="session")
async def shared_worker(model: Path, anyio_backend: str) -> AsyncIterator[Rig]:
    """The worker behind `rig`, started once."""
    async with running_worker(model) as running:
        yield running


@pytest.fixture
async def rig(shared_worker: Rig) -> Rig:
    """A ready worker with default settings; the engine has forgotten earlier tests."""
    shared_worker.engine.forget()
    return shared_worker


@pytest.fixture
async def own_rig(model: Path) -> AsyncIterator[Rig]:
    """A worker of the test's own, which it may drain, kill or count."""
    async with running_worker(model) as running:
        yield running
