"""The page's server: its files and facts for this machine alone, completions passed on."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from steelyard_operator.page.server import FILES, Page, serve

pytestmark = pytest.mark.anyio


async def get(url: str, **headers: str) -> tuple[int, Any, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.headers, await answer.text()


@pytest.mark.parametrize("path", FILES)
async def test_files_come_with_a_strict_policy(played: Any, path: str) -> None:
    """Scripts and styles from here alone, nothing inline, nothing framed."""
    status, headers, text = await get(played.url.rstrip("/") + path)

    assert status == 200
    assert headers["Content-Type"].startswith(FILES[path][1])
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in text.replace("http-equiv", ""), "an address from elsewhere"


async def test_facts_are_json(played: Any) -> None:
    """As they are now."""
    status, _, text = await get(f"{played.url}facts")

    assert status == 200
    assert '"s-0"' in text


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("nothing", {}, 404),
        ("../server.py", {}, 404),
        ("static/index.html", {}, 404),
        ("facts", {"Host": "attacker.example"}, 403),
        ("facts", {"Origin": "http://attacker.example"}, 403),
        ("facts", {"Origin": "null"}, 403),
        ("facts", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("facts", {"Host": "[::1"}, 403),
        ("facts", {"Host": "localhost@attacker.example"}, 403),
        ("", {"Host": "127.0.0.1.attacker.example:80"}, 403),
    ],
)
async def test_nobody_else_is_answered(
    played: Any, path: str, headers: dict[str, str], status: int
) -> None:
    """Other paths, other names of this machine, other pages."""
    found, _, text = await get(played.url + path, **headers)

    assert found == status
    assert text.count("\n") == 1


async def test_a_completion_is_passed_on_piece_by_piece(played: Any) -> None:
    """With the key that was typed; the page's own origin may ask."""
    origin = f"http://{urlsplit(played.url).netloc}"
    headers = {"Authorization": "Bearer k", "Origin": origin}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{played.url}v1/chat/completions", json={"model": "m"}, headers=headers
        ) as answer,
    ):
        text = await answer.text()

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n")
    assert (played.asked, played.keys) == ([{"model": "m"}], ["Bearer k"])


async def test_a_form_of_another_page_asks_nothing(played: Any) -> None:
    """A plain form needs no preflight, so its type is refused."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{played.url}v1/chat/completions", data={"model": "m"}) as answer,
    ):
        assert answer.status == 415
    assert played.asked == []


async def test_a_service_that_is_away_is_one_sentence() -> None:
    """502, and the page goes on."""

    async def facts() -> dict[str, Any]:
        return {}

    async with aiohttp.ClientSession() as session:
        runner, url = await serve(Page(session, facts, lambda: "http://127.0.0.1:9"), 0)
        async with session.post(f"{url}v1/chat/completions", json={}) as answer:
            assert (answer.status, await answer.text()) == (502, "the service does not answer\n")
        await runner.cleanup()


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/html"}, {"Location": "/elsewhere", "Content-Type": "text/plain"}],
    ids=["page", "redirect"],
)
async def test_pages_of_the_service_are_not_ours(headers: dict[str, str]) -> None:
    """Only JSON and events of a service reach a browser, and no redirect is followed."""
    asked = []

    async def strange(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        status = 307 if "Location" in headers else 200
        return web.Response(body=b"<script>", status=status, headers=headers)

    async def facts() -> dict[str, Any]:
        return {}

    service = web.ServerRunner(web.Server(strange))
    await service.setup()
    await web.TCPSite(service, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{service.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:
        runner, url = await serve(Page(session, facts, lambda: endpoint), 0)
        async with session.post(f"{url}v1/chat/completions", json={}) as answer:
            status, text = answer.status, await answer.text()
        await runner.cleanup()
    await service.cleanup()

    assert status == 502
    assert "script" not in text
    assert asked == ["/v1/chat/completions"]


async def test_a_port_that_is_taken_is_an_error(played: Any) -> None:
    """And nothing stays behind."""
    port = urlsplit(played.url).port
    assert port is not None

    async def facts() -> dict[str, Any]:
        return {}

    async with aiohttp.ClientSession() as session:
        with pytest.raises(OSError, match="address already in use"):
            await serve(Page(session, facts, lambda: ""), port)


async def test_browsers_that_ask_together_cost_one_look(played: Any) -> None:
    """And are told the same."""
    answers = await asyncio.gather(*(get(f"{played.url}facts") for _ in range(5)))

    assert played.seconds == 1.0
    assert len({text for _, _, text in answers}) == 1
