"""Our router in front of vLLM: a prefill and a decode worker with NixlConnector, on a CPU.

VLLM_PYTHON names the Python of an environment with vLLM and NIXL (docs/benchmarks.md); without it
nothing here runs, because vLLM's dependencies clash with ours.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steelyard_operator.planning.balance.fit import StepSums, capacity
from steelyard_operator.planning.balance.vllm_steps import Page, steps
from steelyard_runtime.bench.float32_checkpoint import write_float32_directory
from steelyard_runtime.bench.peers import vllm_environment
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.processes import SMOLLM2, Router, fetch, free_port, wait_for

MODEL = "smollm2"
START_SECONDS = 240.0
KV_TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("VLLM_PYTHON"), reason="VLLM_PYTHON names no Python with vLLM"
    ),
]


@dataclass(frozen=True, slots=True)
class Engine:
    """One `vllm serve`."""

    url: str
    process: subprocess.Popen[bytes]

    def counter(self, name: str, **labels: str) -> float:
        """The sum of a counter's samples with these labels."""
        total = 0.0
        for line in fetch(f"{self.url}/metrics").decode().splitlines():
            if (
                line.startswith(name)
                and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', line)).items()
            ):
                total += float(line.rpartition(" ")[2])
        return total

    def kill(self) -> None:
        """End it with everything that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def vllm(model: Path, folder: Path, core: int) -> Iterator[Engine]:
    """Run a vLLM on one core."""
    python = Path(os.environ["VLLM_PYTHON"])
    port, side_port = free_port(), free_port()
    log = folder / f"vllm-{core}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(python.with_name("vllm")), "serve", str(model), "--served-model-name", MODEL,
                "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048",
                "--dtype", "float32", "--enforce-eager",
                "--kv-transfer-config", json.dumps(KV_TRANSFER),
            ],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={
                **vllm_environment(python, folder),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": str(core),
                "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
                "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_port),
                "UCX_TLS": "tcp,sm,self",
            },
        )  # fmt: skip
        engine = Engine(f"http://127.0.0.1:{port}", process)
        try:
            wait_for(lambda: _healthy(engine, log), f"vLLM ready (log: {log})", START_SECONDS)
            yield engine
        finally:
            engine.kill()


def _healthy(engine: Engine, log: Path) -> bool:
    assert engine.process.poll() is None, log.read_text()[-2000:]
    with contextlib.suppress(OSError):
        fetch(f"{engine.url}/health", seconds=5.0)
        return True
    return False


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """A prefill and a decode worker."""
    folder = tmp_path_factory.mktemp("vllm")
    write_float32_directory(resolve(SMOLLM2), folder / "model")
    with vllm(folder / "model", folder, 0) as prefill, vllm(folder / "model", folder, 1) as decode:
        yield prefill, decode


@pytest.fixture(scope="module")
def router(
    engines: tuple[Engine, Engine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    """Our router; what it can ask the workers itself is not in the file."""
    members = [
        {"id": role, "url": engine.url, "role": role}
        for role, engine in zip(("prefill", "decode"), engines, strict=True)
    ]
    with Router(MODEL, folder=tmp_path_factory.mktemp("router")) as found:
        found.write_members(members)
        yield found.wait_ready()


def body(topic: str, **fields: Any) -> dict[str, Any]:
    prompt = f"A short history of {topic}, told by somebody who was there. " * 12
    return {"model": MODEL, "prompt": prompt, "max_tokens": 24, "temperature": 0, **fields}


def text(url: str, request: dict[str, Any]) -> str:
    answer = json.loads(fetch(f"{url}/v1/completions", body=request, seconds=120.0))
    return str(answer["choices"][0]["text"])


def test_step_times_follow_from_the_metrics(engines: tuple[Engine, Engine], router: Router) -> None:
    """What the operator reads of vLLM says what a worker can do, near what was just seen."""

    def pages() -> list[Page]:
        found = []
        for engine in engines:
            page = Page.read(fetch(f"{engine.url}/metrics").decode(), time.monotonic())
            assert page is not None, "vLLM's metrics have other names"
            found.append(page)
        return found

    total, seconds, tokens = StepSums(), 0.0, 0
    before = pages()
    for number in range(6):
        begin = time.monotonic()
        text(router.url, body(f"bridge {number}", max_tokens=16))
        seconds, tokens = seconds + time.monotonic() - begin, tokens + 15
    computed = 0.0
    for old, new in zip(before, pages(), strict=True):
        came = steps(old, new)
        assert came is not None
        total, computed = total.plus(came), computed + new.computed_tokens - old.computed_tokens

    found = capacity(total)
    assert found is not None, total
    # All that a request took is more than its prompt, and more than its steps.
    assert found.prefill_tokens_per_second > computed / seconds
    assert seconds / tokens / 4 < found.step(1, 200) < seconds / tokens
    assert found.kv_tokens > 2048


def test_kv_goes_from_vllm_to_vllm(engines: tuple[Engine, Engine], router: Router) -> None:
    """The prompt is computed once, by the prefill worker, and the answer is vLLM's own."""
    _, decode = engines
    request = body("the harbour")
    name = "vllm:prompt_tokens_by_source_total"
    before = decode.counter(name, source="external_kv_transfer")

    answer = text(router.url, request)

    moved = decode.counter(name, source="external_kv_transfer") - before
    assert moved > 100
    assert router.metric("steelyard_router:prefill_decisions_total", decision="remote") >= 1
    assert router.metric("steelyard_router:prefill_fallbacks_total") == 0
    assert answer == text(decode.url, {**request, "cache_salt": "alone"})


def test_a_stream_is_relayed(engines: tuple[Engine, Engine], router: Router) -> None:
    """Event by event, with usage at the end, and the same text."""
    request = body("the lighthouse")
    streamed = fetch(
        f"{router.url}/v1/completions",
        body={**request, "stream": True, "stream_options": {"include_usage": True}},
        seconds=120.0,
    ).decode()
    events = [
        json.loads(line.removeprefix("data: "))
        for line in streamed.splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
    parts = [choice["text"] for event in events for choice in event["choices"]]

    assert streamed.rstrip().endswith("data: [DONE]")
    assert len(parts) > 10
    assert events[-1]["usage"]["completion_tokens"] == 24
    assert "".join(parts) == text(engines[1].url, {**request, "cache_salt": "alone"})


def test_the_end_of_the_prefill_worker_is_only_slower(
    engines: tuple[Engine, Engine], router: Router
) -> None:
    """Last test of the file: the decode worker computes the prompt itself."""
    prefill, decode = engines
    request = body("the bridge")
    prefill.kill()

    answer = text(router.url, request)

    assert answer == text(decode.url, {**request, "cache_salt": "alone"})
    assert router.metric("steelyard_router:requests_total", code="200") >= 3
