"""The page in a real browser: Chromium without a window, driven by its DevTools protocol."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from steelyard_operator.page.chronicle import WorkerFact

pytestmark = pytest.mark.anyio
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PATIENCE_SECONDS = 30.0


class Tab:
    """One tab: evaluates expressions, and keeps what it asked for and complained about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(str(parameters["entry"]))

    async def value(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self.value(expression):  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.05)


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    """An empty tab of a browser of its own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: it is in Debian's package chromium")
    profile = tmp_path / "profile"
    browser = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        address = profile / "DevToolsActivePort"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not address.exists() or "\n" not in address.read_text():
                assert browser.returncode is None, "Chromium ended at its start"
                await asyncio.sleep(0.05)
        port = address.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                where = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(where, max_msg_size=0) as socket:
                found = Tab(socket)
                for domain in ("Page", "Network", "Runtime", "Log"):
                    await found.call(f"{domain}.enable")
                yield found
    finally:
        if browser.returncode is None:
            browser.terminate()
        await browser.wait()


TILES = "[...document.querySelectorAll('#{} li')].map(one => one.dataset.name).join()"


async def test_the_page_shows_the_balance_and_asks(played: Any, tab: Tab) -> None:
    """Workers by role, a flip as it happens, an answer as it streams; all of it from here."""
    played.in_flight = {"s-1": 4}
    await tab.call("Page.navigate", url=played.url)
    await tab.until("document.getElementById('state')?.textContent === 'live'")

    assert await tab.value(TILES.format("prefill")) == "s-0"
    assert await tab.value(TILES.format("decode")) == "s-1"
    assert await tab.value("document.querySelector('#decode meter').value") == 4
    goal = await tab.value("document.querySelector('#ttft .goal').textContent")
    assert goal == "objective 300 ms for 95 %"

    played.workers = [played.workers[0], WorkerFact("s-1", "prefill", "ready")]
    await tab.until(TILES.format("prefill") + " === 's-0,s-1'")
    assert await tab.value(TILES.format("decode")) == ""
    said = await tab.value("document.querySelector('#events li').textContent")
    assert said == "12:00:00  s-1 changes from decode to prefill"

    await tab.value(
        "document.getElementById('prompt').value = 'How is it?';"
        "document.getElementById('key').value = 'k';"
        "document.getElementById('ask').requestSubmit()"
    )
    await tab.until("document.getElementById('answer').textContent === 'All is well.'")
    await tab.until("document.getElementById('timing').textContent.startsWith('first text after')")
    assert played.asked[0]["messages"] == [{"role": "user", "content": "How is it?"}]
    assert played.keys == ["Bearer k"]

    assert tab.complaints == []
    assert {url for url in tab.requests if not url.startswith(played.url)} <= {"data:,"}


async def test_names_are_never_markup(played: Any, tab: Tab) -> None:
    """What a cluster calls its things is text."""
    played.workers = [WorkerFact("<img src=x onerror=document.title='bad'>", "prefill", "ready")]
    await tab.call("Page.navigate", url=played.url)
    await tab.until("document.querySelectorAll('#prefill li').length === 1")

    assert await tab.value("document.querySelectorAll('img').length") == 0
    assert await tab.value("document.title") == "Steelyard"
