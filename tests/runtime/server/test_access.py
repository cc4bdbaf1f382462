"""Who may ask, and what is written down about it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard_runtime.logs import JsonLines
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio


class Lines(logging.Handler):
    """Keeps the request log as formatted lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(JsonLines().format(record))


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger = logging.getLogger("steelyard_runtime.server.request")
    handler, level = Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic key-1", 401),
        ("Bearer", 401),
        ("Bearer key-1", 200),
        ("bearer key-2", 200),
    ],
)
async def test_keys_guard_the_model(model: Path, header: str | None, status: int) -> None:
    """With keys, only a known one reaches the model."""
    headers = {"authorization": header} if header else {}
    async with running_worker(model, api_keys=("key-1", "key-2")) as guarded:
        guarded.http.headers.update(headers)
        answers = [
            await guarded.complete(),
            await guarded.http.get("/v1/models"),
            await guarded.http.post("/tokenize", json={"prompt": "a"}),
        ]

    assert [answer.status_code for answer in answers] == [status] * 3
    if status == 401:
        assert answers[0].json()["error"]["code"] == "invalid_api_key"
        assert answers[0].headers["www-authenticate"] == "Bearer"


async def test_probes_and_metrics_need_no_key(model: Path) -> None:
    """The cluster's own endpoints are open."""
    async with running_worker(model, api_keys=("key-1",)) as guarded:
        paths = ("/health", "/ready", "/metrics", "/version", "/openapi.json")
        statuses = [(await guarded.http.get(path)).status_code for path in paths]

    assert statuses == [200] * 5


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ("abc-123_x.Y:z", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("a b", False),
        ("<x>", False),
    ],
)
async def test_request_ids_are_echoed_where_usable(rig: Rig, given: str, echoed: bool) -> None:
    """A usable id comes back and is a part of the answer's; another one is replaced."""
    response = await rig.http.post(
        "/v1/completions",
        json={"model": "fake", "prompt": "a", "max_tokens": 1},
        headers={"x-request-id": given},
    )

    back = response.headers["x-request-id"]
    assert (back == given) is echoed
    assert response.json()["id"] == f"cmpl-{back}"
    assert rig.engine.added[0].request_id.startswith(back)


async def test_errors_carry_a_request_id(rig: Rig) -> None:
    """Also refused requests can be found in the log."""
    assert (await rig.http.get("/nothing")).headers["x-request-id"]
    assert (await rig.complete(n=0)).headers["x-request-id"]


async def test_the_same_id_twice_at_once_is_no_clash(rig: Rig) -> None:
    """Sequences have names of their own, whatever clients send."""
    body = {"model": "fake", "prompt": "a", "max_tokens": 1}
    for _ in range(2):
        await rig.http.post("/v1/completions", json=body, headers={"x-request-id": "same"})

    first, second = rig.engine.added
    assert first.request_id != second.request_id


async def test_one_log_line_a_request_without_its_text(rig: Rig, lines: Lines) -> None:
    """The line has id, status, lengths and times, and nothing of prompt or answer."""
    await rig.chat(messages=[{"role": "user", "content": "my secret"}], max_tokens=5)
    await rig.until(lambda: lines.lines, "the line is written")

    (line,) = lines.lines
    fields = json.loads(line)
    assert (fields["status"], fields["path"]) == (200, "/v1/chat/completions")
    assert (fields["completion_tokens"], fields["method"]) == (5, "POST")
    assert fields["prompt_tokens"] > 5
    assert fields["request_id"]
    assert fields["ttft_seconds"] >= 0
    assert "secret" not in line
    assert "Hello" not in line


async def test_wrong_values_are_not_logged_or_repeated_at_length(rig: Rig, lines: Lines) -> None:
    """A long wrong text could be a prompt: it is in neither the answer nor the log."""
    response = await rig.complete(seed="a very secret prompt " * 10)
    await rig.until(lambda: lines.lines, "the line is written")

    assert response.status_code == 400
    assert "secret" not in response.text
    assert "secret" not in lines.lines[0]


async def test_browsers_of_allowed_origins_may_ask(model: Path) -> None:
    """CORS is off by default and answers preflight requests where it is on."""
    asked = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    settings = {"allowed_origins": ("https://chat.example",), "api_keys": ("k",)}
    async with running_worker(model, **settings) as browsed, running_worker(model) as plain:
        allowed = await browsed.http.options("/v1/chat/completions", headers=asked)
        refused = await plain.http.options("/v1/chat/completions", headers=asked)
        got = await browsed.http.get("/version", headers={"origin": "https://chat.example"})

    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert "access-control-allow-origin" not in refused.headers
    assert got.headers["access-control-allow-origin"] == "https://chat.example"
