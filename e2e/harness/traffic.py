"""Traffic during a scenario: a driver pod in the cluster, and what it recorded.

One pod a scenario. It sends to the Service's cluster address: through kube-proxy as any client in
the cluster, and without a name server that a drained node may take along.
"""

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.driver_pod import DriverPod
from harness.kubectl import Kubectl, KubectlError, wait_for
from harness.verdict import parse

DRIVER = Path(__file__).with_name("driver.py")
STREAMS = 5
OPEN_STREAMS = 4  # how many must be under way at each fault
# Streams are at most as long as a worker may drain, plus a start on a busy machine.
END_SECONDS = 180
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the driver, and the answer that was recorded for it."""

    body: dict[str, Any]
    answer: str = ""


def questions(model: str, text: str, *, tokens: int) -> list[Question]:
    """Return greedy requests with prompts that are long enough to be prefilled elsewhere."""
    return [
        Question(
            {
                "model": model,
                "prompt": text[start : start + 700 + 60 * index],
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
        )
        for index, start in enumerate(range(500, 6500, 1000))
    ]


@dataclass(slots=True)
class Traffic:
    """A driver pod."""

    kubectl: Kubectl
    image: str
    url: str
    questions: list[Question]
    node: str | None = None  # where the driver runs: a node that no scenario drains
    streams: int = STREAMS
    name: str = ""
    log: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> list[Question]:
        """Return the questions with the answers of the service that does nothing else."""
        self._create("record")
        wait_for("the recorded answers", self._over, seconds=END_SECONDS)
        answers = json.loads(self._read_log())
        self._delete()
        wrong = [answer["error"] for answer in answers if answer["error"] or not answer["text"]]
        assert not wrong, f"the service answers wrongly before any fault: {wrong}"
        return [
            Question(question.body, answer["text"])
            for question, answer in zip(self.questions, answers, strict=True)
        ]

    def start(self) -> None:
        """Create the driver; returns when enough streams are under way."""
        self._create("drive")
        self.wait_open()

    def wait_open(self) -> None:
        """Return as soon as enough streams have brought text and not ended."""

        def open_now() -> bool:
            return int(self.state()["begun"]) >= OPEN_STREAMS

        wait_for(f"{OPEN_STREAMS} open streams", open_now, seconds=120, poll=0.1)

    def state(self) -> dict[str, Any]:
        """Return the driver's numbers now."""
        content: dict[str, Any] = json.loads(
            self.kubectl.execute(self.name, "driver", "cat", "/tmp/state.json")
        )
        return content

    def let_end(self) -> None:
        """Open no stream any more; those under way go on. Once is enough."""

        def told() -> bool:
            if self._over():  # A driver that was told before may have ended.
                return True
            self.kubectl.execute(self.name, "driver", "sh", "-c", "kill -TERM 1")
            return True

        wait_for("a driver that hears", told, seconds=60)

    def wait_begun(self) -> None:
        """Return once no stream waits for its first text any more, or all have ended."""

        def begun() -> bool:
            return self._over() or int(self.state()["waiting"]) == 0

        wait_for("the first text of every stream", begun, seconds=120, poll=0.1)

    def finish(self) -> list[dict[str, Any]]:
        """Wait for the end of all streams and return what happened to each."""
        wait_for("the end of all streams", self._over, seconds=END_SECONDS)
        self.log = self._read_log()
        self.records = parse(self.log)
        self._delete()
        return self.records

    def _over(self) -> bool:
        phase = self.kubectl.read("pod", self.name)["status"].get("phase")
        if phase == "Failed":
            raise AssertionError(f"the driver failed: {self._read_log()[-2000:]}")
        return bool(phase == "Succeeded")

    def _read_log(self) -> str:
        def read() -> str:
            return self.kubectl("logs", self.name, timeout=120) or " "

        return wait_for("the driver's log", read, seconds=60)

    def _delete(self) -> None:
        self.kubectl("delete", "pod,configmap", self.name, "--wait=false", "--ignore-not-found")

    def abandon(self) -> None:
        """Keep what a driver of a failed scenario has written, and remove it."""
        try:
            self.log = self._read_log()
            self.records = parse(self.log)
            self._delete()
        except (KubectlError, AssertionError) as error:
            self.log += f"\n{error}"

    def _create(self, command: str) -> None:
        self.name = f"e2e-driver-{next(_numbers)}"
        plan = {
            "url": self.url,
            "streams": self.streams,
            "questions": [{"body": q.body, "answer": q.answer} for q in self.questions],
        }
        pod = DriverPod(self.name, self.image, DRIVER, node=self.node)
        pod.create(self.kubectl, command, plan)
