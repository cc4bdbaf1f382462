"""How threads reach the step thread: a queue of messages that can also be woken without one."""

import queue

from steelyard_runtime.ipc.messages import Abort, AddRequest, Call, Shutdown

Message = AddRequest | Abort | Call | Shutdown


class Mailbox:
    """Many writers, one reader."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def put(self, message: Message) -> None:
        """Add a message."""
        self._queue.put(message)

    def wake(self) -> None:
        """Let a waiting reader go on, without a message."""
        self._queue.put(None)

    def take(self, timeout_seconds: float) -> list[Message]:
        """Return all messages; waits for the first one at most `timeout_seconds`."""
        messages: list[Message] = []
        try:
            first = (
                self._queue.get(timeout=timeout_seconds)
                if timeout_seconds > 0
                else self._queue.get_nowait()
            )
            if first is not None:
                messages.append(first)
            while True:
                message = self._queue.get_nowait()
                if message is not None:
                    messages.append(message)
        except queue.Empty:
            return messages
