"""vLLM's own router, unchanged from PyPI, in front of a prefill and a decode worker."""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.http_answers import CHAT, COMPLETIONS, Json, ask
from steelyard_runtime.testing.processes import fetch, free_port, wait_for
from steelyard_runtime.testing.services import Pair, settle

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="published for Linux"),
]

MODEL = "smollm2"
TALE = (
    "In the last week of the fair the organ grinder told the children about the river that ran "
    "backwards. It began at the sea, he said, and climbed the hills every evening, carrying "
    "lanterns and small boats, until it reached a spring so high that the clouds drank from it. "
)
GREEDY = {"temperature": 0, "max_tokens": 6}
SEEDED = {"temperature": 0.9, "seed": 17, "max_tokens": 6}


def completion(number: int, **fields: Any) -> tuple[str, Json]:
    """Return a completion of a tale that is not like the others from its first words on."""
    return COMPLETIONS, {"model": MODEL, "prompt": f"Tale {number}. {TALE}", **fields}


def chat(number: int, **fields: Any) -> tuple[str, Json]:
    """Return a chat about a tale."""
    messages = [{"role": "user", "content": f"Story {number}. {TALE} Who told it?"}]
    return CHAT, {"model": MODEL, "messages": messages, **fields}


REQUESTS = {
    "completion": completion(1, **GREEDY),
    "chat": chat(2, **GREEDY),
    "streamed completion": completion(3, **GREEDY, stream=True),
    "streamed chat": chat(4, **GREEDY, stream=True, stream_options={"include_usage": True}),
    "two choices": completion(5, **SEEDED, n=2),
    "two choices of a chat": chat(6, **SEEDED, n=2),
    "stop": completion(7, **GREEDY | {"max_tokens": 12}, stop=[" the", ","]),
    "both token fields": chat(8, **GREEDY, max_completion_tokens=4),
}


@pytest.fixture(scope="module")
def vllm_router(tmp_path_factory: pytest.TempPathFactory, nixl_pair: Pair) -> Iterator[str]:
    """Run the command of its documentation; ends by its process id."""
    command = shutil.which("vllm-router", path=str(Path(sys.executable).parent))
    assert command is not None, "vllm-router must be installed: `make setup`"
    assert importlib.metadata.version("vllm-router") == "0.1.17"
    log = tmp_path_factory.mktemp("vllm-router") / "router.log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                command,
                "--vllm-pd-disaggregation",
                *("--prefill", nixl_pair.prefill.url),
                *("--decode", nixl_pair.decode.url),
                *("--kv-connector", "nixl"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--prometheus-port", str(free_port())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def healthy() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                fetch(f"{url}/health", seconds=2.0)
            except OSError:
                return False
            return True

        wait_for(healthy, f"vllm-router healthy (log: {log})", 60.0)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def salted(body: Json, salt: str) -> Json:
    """Keep the prefixes of two ways of asking apart in the cache."""
    return {**body, "cache_salt": salt}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_the_direct_one(vllm_router: str, nixl_pair: Pair, name: str) -> None:
    """Text, reasons and counts equal those of the decode worker alone, and the KV was fetched."""
    path, body = REQUESTS[name]
    before = nixl_pair.pulls

    given = ask(vllm_router, path, salted(body, "vllm-router"))
    pulled = nixl_pair.pulls - before
    direct = ask(nixl_pair.decode.url, path, salted(body, "direct"))

    assert given == direct
    assert pulled == 1


def test_many_requests_one_after_another_and_at_once(vllm_router: str, nixl_pair: Pair) -> None:
    """Nothing depends on being the first or the only one, and nothing stays behind."""
    before = nixl_pair.pulls
    bodies = [completion(100 + i, **GREEDY | {"max_tokens": 2}) for i in range(12)]
    one_by_one = [ask(vllm_router, path, salted(body, "a")) for path, body in bodies]
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(ask, vllm_router, path, salted(body, "b")) for path, body in bodies]
        at_once = [future.result() for future in futures]

    assert at_once == one_by_one
    assert nixl_pair.pulls - before == 2 * len(bodies)
    assert not any(nixl_pair.failures.values()), nixl_pair.failures
    settle(nixl_pair.prefill, nixl_pair.decode)
