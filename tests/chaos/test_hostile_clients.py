"""Good traffic beside every hostile client at once, against a service as a user starts it.

The attacks are in `steelyard_runtime/testing/hostile/`. `--hostile-minutes` says for how long,
`--hostile-attacks` which of them; the figures are in `bench-results/hostile-clients.json`.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from steelyard_runtime.bench.report import write
from steelyard_runtime.testing.hostile import siege, verdict
from steelyard_runtime.testing.hostile.attacks import ATTACKS
from steelyard_runtime.testing.hostile.memory import Watch, port_flags
from steelyard_runtime.testing.hostile.target import Target, WorkerPorts
from steelyard_runtime.testing.processes import Router

pytestmark = [pytest.mark.model, pytest.mark.chaos, pytest.mark.timeout(7200)]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests/samples/smollm2.yaml"
MODEL = "smollm2-135m"
KEY = "the-key-of-good-clients"
GOOD_SECONDS = 20.0  # of good traffic alone, beside its large requests
DESCRIPTORS = 20_000  # 2,000 idle connections and more on each port


@dataclass(frozen=True, slots=True)
class Up:
    """A running `steelyard up`."""

    process_id: int
    router_port: int
    membership: Path


@pytest.fixture
def up(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Up]:
    """`steelyard up` on the sample, as a user starts it."""
    if not request.config.option.hostile_minutes:
        pytest.skip("--hostile-minutes says for how long")
    packages = os.pathsep.join(str(ROOT / name) for name in ("operator", "runtime", "kernels"))
    log, temporary = tmp_path / "log", tmp_path / "up"
    temporary.mkdir()
    command = [sys.executable, "-m", "steelyard_operator.cli", "up", str(SAMPLE)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--port", "0", "--json", "--verbose"],
            env={**os.environ, "PYTHONPATH": packages, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, log.read_text()
    (membership,) = temporary.glob("*/membership.json")
    yield Up(process.pid, int(json.loads(line)["url"].rpartition(":")[2]), membership)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.fixture
def keyed(up: Up, tmp_path: Path) -> Iterator[Router]:
    """A second router over the same workers, which wants a key."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    (tmp_path / "membership.json").symlink_to(up.membership)
    with Router(MODEL, folder=tmp_path, flags=["--api-keys-file", str(keys)]) as router:
        yield router.wait_ready()


def test_hostile_clients_hurt_nobody_else(
    up: Up, keyed: Router, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Under every attack at once good clients get their texts in time, from the same processes."""
    option = request.config.option
    _allow_descriptors()
    workers = port_flags(up.process_id)
    ground = siege.Ground(
        target=Target(
            routers=[up.router_port, keyed.port],
            workers=[WorkerPorts(w["port"], w["admin-port"], w["kv-port"]) for w in workers],
        ),
        root=up.process_id,
        routers=[(up.router_port, ""), (keyed.port, KEY)],
        probes={
            "the router": (up.router_port, "/ready"),
            "the router with keys": (keyed.port, "/ready"),
            **{f"worker {i}": (each["port"], "/ready") for i, each in enumerate(workers)},
        },
        text=(ROOT / "LICENSE").read_text(),
        folder=tmp_path,
        extra={"router with keys": keyed.process.pid},
    )
    seed = siege.draw_seed() if option.hostile_seed is None else option.hostile_seed
    chosen = (option.hostile_attacks or ",".join(ATTACKS)).split(",")
    watch = Watch(up.process_id, extra=dict(ground.extra))
    right = siege.right_answers(ground)
    watch.start()
    try:
        good = siege.good_peaks(ground, watch, GOOD_SECONDS)
        seen = siege.besiege(
            ground,
            watch,
            right=right,
            good=good,
            attacks=chosen,
            minutes=option.hostile_minutes,
            seed=seed,
        )
    finally:
        watch.stop()
    broken = verdict.breaches(seen)
    figures = {"seed": seed, **verdict.figures(seen)}
    told = {**figures, "breaches": [str(each) for each in broken]}
    report = write("hostile-clients", told, ROOT / "bench-results")
    print(json.dumps(figures, indent=1))  # noqa: T201  # pytest shows it where the test fails
    if broken:
        pytest.fail(f"seed {seed}, {report}:\n{verdict.sentence(broken)}", pytrace=False)


def _allow_descriptors() -> None:
    """Let this process' children, the attackers, hold their connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
