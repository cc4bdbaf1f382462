"""A run under attack: what is right, what good traffic needs, the attacks, and what was seen."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from steelyard_runtime import parent_pipe
from steelyard_runtime.testing.hostile import bodies
from steelyard_runtime.testing.hostile.attacker import BEGUN, Attempted
from steelyard_runtime.testing.hostile.attacks import ATTACKS
from steelyard_runtime.testing.hostile.cores import busy_seconds, used_seconds
from steelyard_runtime.testing.hostile.good_clients import (
    CITY,
    WEATHER,
    GoodTraffic,
    Probes,
    ask,
    good_bodies,
    in_parallel,
)
from steelyard_runtime.testing.hostile.memory import Watch
from steelyard_runtime.testing.hostile.stalls import Stall
from steelyard_runtime.testing.hostile.target import Target, post
from steelyard_runtime.testing.hostile.verdict import Evidence

PACKAGE = "steelyard_runtime.testing.hostile"
AFTERMATH_SECONDS = 5.0  # good traffic goes on after the last attack
Line = TypeVar("Line", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Ground:
    """What is attacked, and how good clients reach it."""

    target: Target
    root: int  # process id of `steelyard up`
    routers: Sequence[tuple[int, str]]  # port and key
    probes: Mapping[str, tuple[int, str]]
    text: str  # of which prompts are made
    folder: Path
    extra: Mapping[str, int]  # processes that are watched beside those of `root`


def right_answers(ground: Ground) -> list[str]:
    """Return what each stream says undisturbed: alone, and beside the other seven.

    Raises:
        RuntimeError: a request failed, or its text depends on what runs beside it.
    """
    asked = good_bodies(ground.text)
    port, key = ground.routers[0]
    alone = [ask(port, number, each, key=key) for number, each in enumerate(asked)]
    together = GoodTraffic(ground.routers, asked)
    together.start()
    together.stop()
    for answer in (*alone, *together.answers):
        if answer.error:
            raise RuntimeError(f"stream {answer.stream}, undisturbed: {answer.error}")
        if answer.said != alone[answer.stream].said:
            raise RuntimeError(
                f"stream {answer.stream}, undisturbed, says {answer.said!r} and "
                f"{alone[answer.stream].said!r}"
            )
    return [answer.said for answer in alone]


def legal_requests(ground: Ground) -> list[tuple[str, Any]]:
    """Return path and body of large requests that a good client may send."""
    text, hello = ground.text, bodies.HELLO
    names = [f"field_{number}" for number in range(100)]
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in names}}
    given = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    long = text * (1 + 9_000_000 // len(text))
    talk = [{"role": "user", "content": text[:200]}] * 40
    messages = [{"role": "user", "content": "a" * 100}] * 60_000
    return [
        (bodies.CHAT, {"messages": [{"role": "user", "content": long[:9_000_000]}]}),
        (bodies.COMPLETIONS, {"prompt": long[:9_000_000], "max_tokens": 1}),
        (bodies.CHAT, {"messages": messages, "max_tokens": 1}),
        (bodies.CHAT, {"messages": talk, "max_tokens": 1}),
        (bodies.CHAT, {"messages": hello, "max_tokens": 40, "response_format": given}),
        (bodies.CHAT, {"messages": hello, "max_tokens": 4, "tools": [WEATHER] * 20}),
        (bodies.COMPLETIONS, {"prompt": text[:3000], "max_tokens": 1, "echo": True, "logprobs": 5}),
        (bodies.COMPLETIONS, {"prompt": ["One two"] * 32, "max_tokens": 8}),
        (bodies.COMPLETIONS, {"prompt": text[:8000], "max_tokens": 1, "stream": True}),
        (bodies.COMPLETIONS, {"prompt": "One", "n": 8, "max_tokens": 16, "logprobs": 20}),
    ]


def _compiled(number: int) -> dict[str, Any]:
    """Return a small schema that no cache has."""
    schema = {**CITY, "title": f"city {number}"}
    given = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    return {"messages": bodies.HELLO, "max_tokens": 40, "response_format": given}


def good_peaks(ground: Ground, watch: Watch, seconds: float) -> dict[str, int]:
    """Return each process' most bytes under good traffic, large legal requests among it."""

    def send(path: str, body: Any) -> None:
        # Each server, as clients of a second router would reach it.
        for port, key in ground.routers:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            post(port, path, body, seconds=120, headers=headers)

    watch.reset()
    traffic = GoodTraffic(ground.routers, good_bodies(ground.text))
    traffic.start()
    end = time.monotonic() + seconds
    in_parallel([partial(send, *each) for each in legal_requests(ground)])
    number = 0
    while time.monotonic() < end:
        send(bodies.CHAT, _compiled(number))
        number += 1
    traffic.stop()
    return dict(watch.peaks)


def besiege(
    ground: Ground,
    watch: Watch,
    *,
    right: Sequence[str],
    good: Mapping[str, int],
    attacks: Sequence[str],
    minutes: float,
    seed: int,
) -> Evidence:
    """Run good traffic beside the attacks; returns what was seen."""
    traffic = GoodTraffic(ground.routers, good_bodies(ground.text))
    probes = Probes(ground.probes)
    target = msgspec.json.encode(ground.target).decode()
    attackers: list[int] = []
    watch.reset()
    watch.samples.clear()
    with _process(ground.folder / "stalls", "stalls"):
        traffic.start()
        probes.start()
        began = time.monotonic()
        busy, ours = busy_seconds(), used_seconds([*watch.pids(), os.getpid()])
        with contextlib.ExitStack() as running:
            for name in attacks:
                for client, log in enumerate(_logs(ground.folder, name)):
                    seeded = f"{seed} {client}"
                    attacker = _process(log, "attacker", name, seeded, target)
                    attackers.append(running.enter_context(attacker))
            time.sleep(minutes * 60)
            theirs = used_seconds(attackers)
        busy = busy_seconds() - busy
        ours = used_seconds([*watch.pids(), os.getpid()]) - ours
        ended = time.monotonic()
        time.sleep(AFTERMATH_SECONDS)
        probes.stop()
        traffic.stop()
    return Evidence(
        began=began,
        ended=ended,
        answers=list(traffic.answers),
        right=list(right),
        probes=list(probes.probes),
        stalls=_read(ground.folder / "stalls", Stall),
        attempts={name: _attempts(_logs(ground.folder, name), ended) for name in attacks},
        samples=list(watch.samples),
        changes=list(watch.changes),
        good_peaks=dict(good),
        peaks=dict(watch.peaks),
        cpu_shares={
            who: seconds / (ended - began) / len(os.sched_getaffinity(0))
            for who, seconds in {
                "service and good clients": ours,
                "attackers": theirs,
                "others": busy - ours - theirs,
            }.items()
        },
    )


@contextlib.contextmanager
def _process(log: Path, module: str, *arguments: str) -> Iterator[int]:
    """Run a module of this package, its output in a file, for the block; yields its id."""
    read_end, write_end = os.pipe()
    with log.open("wb") as output, log.with_suffix(".errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            pass_fds=[read_end],
            env={**os.environ, parent_pipe.VARIABLE: str(read_end)},
        )
    os.close(read_end)
    try:
        yield process.pid
        if process.poll() is not None:
            told = log.with_suffix(".errors").read_text()[-2000:]
            raise RuntimeError(f"{module} {' '.join(arguments[:1])} ended early: {told}")
    finally:
        process.kill()
        process.wait()
        os.close(write_end)


def _read(log: Path, line: type[Line]) -> list[Line]:
    decode = msgspec.json.Decoder(line).decode
    return [decode(each) for each in log.read_bytes().split(b"\n") if each.endswith(b"}")]


def _logs(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}-{client}.attempts" for client in range(ATTACKS[name].clients)]


def _attempts(logs: Sequence[Path], ended: float) -> list[Attempted]:
    made: dict[float, Attempted] = {}
    for each in (each for log in logs for each in _read(log, Attempted)):
        unfinished = Attempted(each.at, ended - each.at, "unfinished")
        made[each.at] = unfinished if each.outcome == BEGUN else each
    return list(made.values())


def draw_seed() -> int:
    """Return a seed for a run that was given none."""
    return random.SystemRandom().randrange(10**6)
