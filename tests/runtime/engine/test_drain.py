"""A drain with a deadline, in the step thread's loop."""

from typing import Any

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.engine.loop import EngineLoop
from steelyard_runtime.ipc.messages import AddRequest, Call, Reply, Shutdown
from steelyard_runtime.transfer.interface import LeaseEnded


class Orders:
    """A mailbox that plays a script: one list of messages for each turn of the loop."""

    def __init__(self, *turns: Any) -> None:
        self._turns = list(turns)

    def take(self, timeout_seconds: float) -> list[Any]:
        """Return the next turn's messages, and the end after the last."""
        turn = self._turns.pop(0) if self._turns else [Shutdown()]
        return turn() if callable(turn) else turn


def test_a_drain_deadline_ends_leases(rig) -> None:
    """When the time is over, exported blocks do not hold the worker until their lease ends."""
    rig.engine.add(AddRequest("p1", [1, 2, 3, 4, 5], SamplingParams(max_tokens=1), export_kv=True))
    while not any(call[0] == "export" for call in rig.transfer.calls):
        rig.engine.step()
    assert rig.engine.in_flight == 1
    phases: list[str] = []

    def later() -> list[Any]:
        rig.now_ns = 3_000_000_000
        return []

    def ended() -> list[Any]:
        assert ("end_leases",) in rig.transfer.calls
        rig.transfer.pending.append(LeaseEnded("p1", "aborted"))
        return []

    def state() -> list[Any]:
        phases.append(loop.state()["phase"])
        return []

    orders = Orders([Call(1, "drain", {"deadlineSeconds": 2})], state, later, ended, state)
    sent: list[Any] = []
    loop = EngineLoop(rig.engine, orders, sent.append, lambda: rig.now_ns)  # type: ignore[arg-type]
    loop.run()

    assert phases == ["draining", "drained"]
    assert isinstance(sent[0], Reply)
