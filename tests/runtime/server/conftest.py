"""A worker's HTTP process over a fake engine, for every test of this folder."""

import logging
from collections.abc import AsyncIterator, Iterator
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


class Failures(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line with its exception."""
        self.lines.append(logging.Formatter().format(record))


@pytest.fixture
def failures() -> Iterator[list[str]]:
    """What is logged as an error while the test runs."""
    handler = Failures()
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)
