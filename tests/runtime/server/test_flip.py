"""Roles change in real worker processes under streams: every answer is right, nothing restarts.

The test plays the operator: it takes a worker off the router's list, drains it, gives it the other
role, looks at what `/state` says, and puts it back.
"""

import json
import threading
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.processes import Router, Worker, fetch, wait_for
from steelyard_runtime.testing.streams import Completion, Streams
from steelyard_runtime.testing.tiny_checkpoint import write_tiny_checkpoint

NUM_STREAMS = 8
OUTPUT_TOKENS = 48
TOKEN = "the-service-of-a-test"  # protects nothing
FLAGS = [
    *("--served-model-name", "flip"),
    *("--threads", "1"),
    *("--max-num-batched-tokens", "64"),
    *("--max-model-len", "1024"),
    *("--num-gpu-blocks-override", "512"),
    *("--kv-transport", "tcp"),
    *("--kv-lease-seconds", "20"),
]
START = {"a": "prefill", "b": "decode", "c": "decode"}


@dataclass
class Service:
    """Three workers and a router, and an operator's means."""

    workers: dict[str, Worker]
    router: Router
    listed: set[str] = field(default_factory=set)
    epoch: int = 0

    def list(self, *names: str) -> None:
        """Let the router know exactly these workers, in the roles that they say they have."""
        self.listed = set(names)
        self.router.write_members([self.workers[name].member(name) for name in names])

    def tell(self, name: str, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """POST to a worker's admin port; returns status and document."""
        url = f"http://127.0.0.1:{self.workers[name].admin_port}{path}"
        try:
            return 200, json.loads(fetch(url, body=body, token=TOKEN))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def drained(self, name: str) -> dict[str, Any]:
        """Wait until a worker has nothing in flight; returns its state."""

        def now() -> dict[str, Any] | None:
            state = self.workers[name].state()
            return state if state["phase"] == "drained" else None

        found: dict[str, Any] = wait_for(now, f"{name} drained", 60.0)
        return found

    def flip(self, name: str, role: str) -> None:
        """Unlabel, drain, change, verify, label: as the operator does."""
        self.epoch += 1
        worker = self.workers[name]
        before, pids = worker.state(), (worker.process.pid, worker.engine_pid())
        self.list(*(self.listed - {name}))
        status, draining = self.tell(name, "/drain", epoch=self.epoch, deadlineSeconds=60)
        assert status == 200
        assert (draining["role"], draining["epoch"]) == (before["role"], self.epoch)
        assert draining["phase"] in ("draining", "drained")
        drained = self.drained(name)
        assert (drained["role"], drained["inFlight"]) == (before["role"], 0)
        assert drained["blocks"]["leased"] == drained["blocks"]["referenced"] == 0
        status, changed = self.tell(name, "/role", role=role, epoch=self.epoch)
        assert (status, changed["role"], changed["phase"]) == (200, role, "ready")
        after = worker.state()
        assert (worker.process.pid, worker.engine_pid()) == pids, "a process was restarted"
        for same in ("fingerprint", "engineId"):
            assert after[same] == before[same]
        assert after["blocks"]["total"] == before["blocks"]["total"], "the KV pool was made anew"
        self.list(*self.listed, name)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One prefill and two decode workers over a tiny checkpoint, all listed."""
    folder = tmp_path_factory.mktemp("flip")
    write_tiny_checkpoint(folder / "model")
    workers = {
        name: Worker(
            str(folder / "model"), log=folder / f"{name}.log", role=role, token=TOKEN, flags=FLAGS,
            environment={"OMP_WAIT_POLICY": "passive"},
        )
        for name, role in START.items()
    }  # fmt: skip
    router = Router("flip", folder=folder)
    try:
        for worker in workers.values():
            worker.wait_ready()
        made = Service(workers, router)
        made.list(*workers)
        router.wait_ready()
        yield made
    finally:
        for server in (router, *workers.values()):
            server.stop()


@pytest.fixture(scope="module")
def bodies() -> list[dict[str, Any]]:
    """Eight requests, half of them drawn at random from a seed."""
    text = (Path(__file__).parents[3] / "LICENSE").read_text()
    return [
        {
            "prompt": text[500 + 700 * index : 1100 + 700 * index],
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            **({"temperature": 0} if index % 2 else {"temperature": 0.8, "seed": index}),
        }
        for index in range(NUM_STREAMS)
    ]


@pytest.fixture(scope="module")
def right(service: Service, bodies: list[dict[str, Any]]) -> list[Completion]:
    """What a worker answers when nothing happens."""
    return Streams(service.workers["b"].url, bodies).wait().completions()


class Load:
    """Eight clients that ask again as soon as they are answered, until they are told to end."""

    def __init__(self, url: str, bodies: list[dict[str, Any]]) -> None:
        self.answers: list[list[Completion]] = [[] for _ in bodies]
        self.errors: list[str] = []
        self._url = url
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(place, body))
            for place, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, place: int, body: dict[str, Any]) -> None:
        while not self._ending.is_set():
            # A salt of its own: no prompt is in a cache, so every one is prefilled remotely.
            salt = f"{id(self)} {place} {len(self.answers[place])}"
            streams = Streams(self._url, [{**body, "cache_salt": salt}]).wait()
            self.errors += streams.errors()
            self.answers[place] += streams.completions()

    def moved_on(self) -> None:
        """Wait until every client has one more answer than now."""
        have = [len(each) for each in self.answers]
        wait_for(
            lambda: self.errors or all(len(n) > h for n, h in zip(self.answers, have, strict=True)),
            "answers of all clients",
            120.0,
        )

    def end(self) -> None:
        """Let the last requests end."""
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_flips_cost_no_request_and_no_word(
    service: Service, bodies: list[dict[str, Any]], right: list[Completion]
) -> None:
    """Decode becomes prefill, prefill decode, and back, under eight streams."""
    load = Load(service.router.url, bodies)
    try:
        for name, role in (("c", "prefill"), ("a", "decode"), ("a", "prefill"), ("c", "decode")):
            load.moved_on()
            service.flip(name, role)
            load.moved_on()
    finally:
        load.end()

    assert load.errors == []
    for place, answers in enumerate(load.answers):
        assert set(answers) == {right[place]}
    service.list(*START)
    assert {name: worker.state()["role"] for name, worker in service.workers.items()} == START


def test_a_drain_at_its_deadline_hands_streams_over(
    service: Service, bodies: list[dict[str, Any]], right: list[Completion]
) -> None:
    """What has not finished by then is replayed on a peer; the client reads one whole answer."""
    victim, replayed = service.workers["b"], "steelyard_router:replays_total"
    before = service.router.metric(replayed, result="done")
    streams = Streams(service.router.url, [{**b, "cache_salt": "deadline"} for b in bodies])
    # Only the decode worker itself knows when it has begun to write.
    wait_for(lambda: victim.state()["running"], "a stream on the worker")
    service.list("a", "c")
    service.epoch += 1
    assert service.tell("b", "/drain", epoch=service.epoch, deadlineSeconds=0)[0] == 200
    drained = service.drained("b")
    status, changed = service.tell("b", "/role", role="prefill", epoch=service.epoch)
    streams.wait()

    assert streams.errors() == []
    assert streams.completions() == right
    assert drained["blocks"]["referenced"] == 0
    assert (status, changed["role"]) == (200, "prefill")
    assert service.router.metric(replayed, result="done") > before
    service.list("a", "c")
    service.flip("b", "decode")


def test_a_prefill_keeps_exported_blocks_until_they_are_pulled(
    service: Service, bodies: list[dict[str, Any]], right: list[Completion]
) -> None:
    """A lease holds the drain open, and the blocks are there for the worker that comes for them."""
    prefill, decode = service.workers["a"], service.workers["b"]
    # A pull that another test gave up may still have a lease.
    wait_for(lambda: prefill.state()["inFlight"] == 0, "no lease of before", 60.0)
    body = {**bodies[1], "cache_salt": "lease"}
    remote = {"do_remote_decode": True, "do_remote_prefill": False}
    asked = {**body, "max_tokens": 1, "kv_transfer_params": remote}
    answer = json.loads(fetch(prefill.url + "/v1/completions", body=asked))
    service.epoch += 1
    status, draining = service.tell("a", "/drain", epoch=service.epoch, deadlineSeconds=60)
    early, refused = service.tell("a", "/role", role="decode", epoch=service.epoch)
    pulls = decode.metric("steelyard:kv_pulls_total", result="done")
    pulled = {**body, "kv_transfer_params": answer["kv_transfer_params"]}
    text = json.loads(fetch(decode.url + "/v1/completions", body=pulled))["choices"][0]["text"]
    drained = service.drained("a")
    back, resumed = service.tell("a", "/role", role="prefill", epoch=service.epoch)

    assert (status, draining["phase"], draining["inFlight"]) == (200, "draining", 1)
    assert draining["blocks"]["leased"] > 0
    assert early == 409
    assert "POST /drain first" in refused["error"]["message"]
    assert text == right[1].text
    assert decode.metric("steelyard:kv_pulls_total", result="done") == pulls + 1
    assert drained["blocks"]["leased"] == 0
    assert (back, resumed["phase"]) == (200, "ready")


def test_an_older_plan_changes_nothing_and_the_drain_resumes(service: Service) -> None:
    """A refused order is a 409 with a sentence; the order of the newer plan stands."""
    service.epoch += 5
    assert service.tell("c", "/drain", epoch=service.epoch)[0] == 200
    orders: list[tuple[str, dict[str, Any]]] = [
        ("/role", {"role": "decode"}),
        ("/role", {"role": "prefill"}),
        ("/drain", {"deadlineSeconds": 0}),
    ]
    stale = [service.tell("c", path, epoch=service.epoch - 1, **body) for path, body in orders]
    kept = service.drained("c")
    status, resumed = service.tell("c", "/role", role="decode", epoch=service.epoch)

    assert [code for code, _ in stale] == [409] * 3
    assert {said["error"]["message"] for _, said in stale} == {
        f"`epoch` {service.epoch - 1} is older than {service.epoch}, the last one seen"
    }
    assert (kept["role"], kept["epoch"]) == ("decode", service.epoch)
    assert (status, resumed["phase"], resumed["role"]) == (200, "ready", "decode")
