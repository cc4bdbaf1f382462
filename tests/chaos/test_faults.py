"""Faults under eight concurrent streams: every answer is right, and everything is given back.

Each fault is a function that waits for what it needs to see, acts, and returns when it has acted.
The counter beside it is the one that an operator of the service would see rise.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.processes import wait_for
from steelyard_runtime.testing.streams import Streams
from steelyard_runtime.testing.supervised import Slot, SupervisedService

LEASE_SECONDS = 3.0  # as in conftest.py
DEADLINE_SECONDS = 2.0
SLACK_SECONDS = 1.5  # leases are looked at thirty times in their life, /state is polled

DOCUMENT = Path(__file__).parents[2] / "docs/faults.md"
Counter = tuple[str, dict[str, str]]
PULL_FAILURES = "steelyard:kv_pull_failures_total"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and the counter that tells."""

    act: Callable[[SupervisedService, Streams], None]
    counter: Counter
    before: tuple[tuple[str, str], ...] = ()  # (worker, transfer fault) from the start
    killed: str = ""  # the only worker that may end of it


def kill_prefill_in_chunk(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL the prefill worker while it computes one prompt and more wait."""

    def computing() -> bool:
        state = service.prefill.worker.state()
        return bool(state["running"]) and state["running"] + state["waiting"] > 1

    wait_for(computing, "a prefill chunk")
    service.prefill.kill()


def kill_prefill_in_transfer(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL the prefill worker after the first block of a pull; then let the pull go on."""
    wait_for(lambda: any(slot.pull_waits for slot in service.decodes), "a pull midway")
    service.prefill.kill()
    service.calm()


def kill_decode_before_token(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL a decode worker whose prompts are still landing."""
    victim = service.decodes[0]
    wait_for(lambda: victim.pull_waits, "a pull midway")
    victim.kill()
    service.calm()


def kill_decode_engine_before_token(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL only the engine process of such a worker."""
    victim = service.decodes[0]
    wait_for(lambda: victim.pull_waits, "a pull midway")
    victim.kill_engine()
    service.calm()


def _decoding(slot: Slot) -> None:
    """Wait until a stream of this round has two tokens from the worker and is not over."""
    # The counter of tokens moves at a request's end, this one with each token after the first.
    before = slot.worker.metric("vllm:inter_token_latency_seconds_count")

    def busy() -> bool:
        made = slot.worker.metric("vllm:inter_token_latency_seconds_count") - before
        return made >= 1 and bool(slot.worker.state()["running"])

    wait_for(busy, "tokens of a stream")


def kill_decode_after_token(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL a decode worker in the middle of its streams."""
    _decoding(service.decodes[0])
    service.decodes[0].kill()


def kill_decode_engine_after_token(service: SupervisedService, streams: Streams) -> None:
    """SIGKILL only the engine process of a decode worker in the middle of its streams."""
    _decoding(service.decodes[0])
    service.decodes[0].kill_engine()


def let_pulls_fail(service: SupervisedService, streams: Streams) -> None:
    """Keep the transfer fault until all streams are over."""
    streams.wait()


def stop_prefill(service: SupervisedService, streams: Streams) -> None:
    """SIGSTOP prefill with pulls midway and pulls about to ask; SIGCONT after the lease."""
    wait_for(lambda: all(slot.pull_waits for slot in service.decodes), "pulls on both workers")
    service.prefill.stop()
    stopped_at = time.monotonic()
    for slot in service.slots.values():
        slot.inject("")
    past = stopped_at + DEADLINE_SECONDS + LEASE_SECONDS
    wait_for(lambda: time.monotonic() > past, "deadline and lease")
    service.prefill.go_on()


# The reader alone does not stop a sender, whose bytes the sockets may buffer.
STALL = (("prefill", "stall"), ("decode-a", "stall"), ("decode-b", "stall"))
FAULTS = {
    "prefill killed in a chunk": Fault(
        kill_prefill_in_chunk,
        ("steelyard_router:prefill_fallbacks_total", {}),
        killed="prefill",
    ),
    "prefill killed in a transfer": Fault(
        kill_prefill_in_transfer,
        (PULL_FAILURES, {"reason": "transfer"}),
        before=STALL,
        killed="prefill",
    ),
    "decode killed before the first token": Fault(
        kill_decode_before_token,
        ("steelyard_router:retries_total", {}),
        before=(("decode-a", "stall"),),
        killed="decode-a",
    ),
    "decode engine killed before the first token": Fault(
        kill_decode_engine_before_token,
        ("steelyard_router:retries_total", {}),
        before=(("decode-a", "stall"),),
        killed="decode-a",
    ),
    "decode killed after the first token": Fault(
        kill_decode_after_token,
        ("steelyard_router:replays_total", {"result": "done"}),
        killed="decode-a",
    ),
    "decode engine killed after the first token": Fault(
        kill_decode_engine_after_token,
        ("steelyard_router:replays_total", {"result": "done"}),
        killed="decode-a",
    ),
    "transfer cut midway": Fault(
        let_pulls_fail,
        (PULL_FAILURES, {"reason": "transfer"}),
        before=(("decode-a", "cut"), ("decode-b", "cut")),
    ),
    "block corrupted on the receiving side": Fault(
        let_pulls_fail,
        (PULL_FAILURES, {"reason": "checksum"}),
        before=(("decode-a", "corrupt"), ("decode-b", "corrupt")),
    ),
    "prefill stopped past deadline and lease": Fault(
        stop_prefill,
        (PULL_FAILURES, {"reason": "deadline"}),
        before=(*STALL[:2], ("decode-b", "hold")),
    ),
}


def test_the_document_names_every_fault_and_its_counter() -> None:
    """The first table of `docs/faults.md` has one row per fault, with the counter checked here."""
    table = DOCUMENT.read_text().partition("| fault |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w.*?) \| .* \| `(.*)` \|$", table, re.MULTILINE)

    assert dict(rows) == {name: _series(*fault.counter) for name, fault in FAULTS.items()}


def _series(name: str, labels: dict[str, str]) -> str:
    selected = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{selected}}}" if selected else name


def read_counter(service: SupervisedService, counter: Counter) -> float:
    """Return the counter, summed over the decode workers where it is a worker's."""
    name, labels = counter
    if name.startswith("steelyard_router:"):
        return service.router.metric(name, **labels)
    return sum(slot.worker.metric(name, **labels) for slot in service.decodes)


@pytest.mark.chaos
@pytest.mark.model
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_no_answer_and_no_block(ground: Any, name: str, repetition: int) -> None:
    """Eight streams end with the right text, the fault is counted, and all blocks come back."""
    fault, service = FAULTS[name], ground.service
    salt = f"{name} {repetition}"
    service.wait_whole()
    slots = service.slots.values()
    restarts = {slot.name: slot.restarts + (slot.name == fault.killed) for slot in slots}
    survivors = [slot for slot in slots if slot.name != fault.killed]
    blocks = {slot.name: ground.cached(slot).digests for slot in survivors}
    counted = read_counter(service, fault.counter)
    for worker, kind in fault.before:
        service.slots[worker].inject(kind)
    try:
        streams = ground.start(salt)
        fault.act(service, streams)
        streams.wait()
    finally:
        service.calm()
    settle_seconds = service.settle_seconds(LEASE_SECONDS + SLACK_SECONDS)
    increase = read_counter(service, fault.counter) - counted
    ground.note(
        fault=name,
        repetition=repetition,
        streams=streams,
        counter=fault.counter,
        increase=increase,
        settle_seconds=settle_seconds,
    )

    assert streams.errors() == []
    assert streams.completions() == ground.right
    assert increase > 0, f"{fault.counter} did not rise"
    again = ground.start(salt).wait()
    assert again.errors() == []
    assert again.completions() == ground.right, "what the fault left in the caches is wrong"
    service.wait_whole()
    assert {slot.name: slot.restarts for slot in slots} == restarts, "another worker ended"
    assert {slot.name: ground.cached(slot).digests for slot in survivors} == blocks
    ground.check_transfer(f"after {salt}", 2)
    service.settle_seconds(LEASE_SECONDS + SLACK_SECONDS)
