"""What cannot be written or read between the processes ends its own request."""

from typing import Any, cast

import msgspec
import pytest

from steelyard_runtime.engine.loop import EngineLoop
from steelyard_runtime.engine.mailbox import Mailbox
from steelyard_runtime.engine.process import Connection, _Reader
from steelyard_runtime.ipc.messages import Abort, Output, Outputs, Shutdown


def test_an_output_that_cannot_be_written_ends_its_sequence(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' outputs of the step arrive."""
    mailbox = Mailbox()
    sent: list[Output] = []

    def send(message: Any) -> None:
        sent.extend(msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Outputs).items)

    def step() -> list[Output]:
        mailbox.put(Shutdown())
        return [Output("good", [1]), Output("bad", [1 << 70]), Output("also-good", [2])]

    monkeypatch.setattr(rig.engine, "step", step)
    EngineLoop(rig.engine, mailbox, send, lambda: 0).run()

    assert [(output.request_id, output.finish_reason) for output in sent] == [
        ("good", None),
        ("bad", "error"),
        ("also-good", None),
    ]


class Frames:
    """Frames that arrive, and messages that are sent; raises where no frame is left."""

    def __init__(self, *messages: Any) -> None:
        self._bodies = [msgspec.msgpack.encode(message) for message in messages]
        self.sent: list[Any] = []

    def read(self) -> bytes:
        """Return the next frame's body."""
        return self._bodies.pop(0)

    def send(self, message: Any) -> None:
        """Note a message."""
        self.sent.append(message)


def test_a_message_that_cannot_be_read_is_refused_alone() -> None:
    """Its request gets an error; the messages after it are read."""
    damaged = {"type": "add", "request_id": "bad", "prompt_token_ids": "none", "params": {}}
    frames, mailbox = Frames(damaged, Abort("after")), Mailbox()
    with pytest.raises(IndexError):  # no frame is left
        _Reader(cast(Connection, frames), mailbox).run()

    ((refusal,),) = (outputs.items for outputs in frames.sent)
    assert (refusal.request_id, refusal.finish_reason) == ("bad", "error")
    assert mailbox.take(0.0) == [Abort("after")]
