"""The process that forks a child for every trial of a grammar; started by `trials.py`.

It reads the vocabulary once, so a trial begins after a fork and not after 0.5 s. It has one thread,
which is what makes forking safe, and no torch. It ends with its socket, whose other end the engine
process holds, and takes its children with it; a child also ends when this process does.
"""

import ctypes
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

from steelyard_runtime.ipc.framing import HEADER, encode_frame
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.matchers import GrammarVocabulary, make_tokenizer
from steelyard_runtime.structured.trial import (
    TrialCancel,
    TrialEnd,
    TrialOrder,
    TrialOutcome,
    run_trial,
)

SOCKET_VARIABLE = "STEELYARD_GRAMMAR_SOCKET_FD"
# Streams come first: with both cores busy a trial gets about a quarter of one.
NICENESS = 5
_PR_SET_PDEATHSIG = 1
_MAX_READ = 1 << 16


@dataclass(slots=True)
class _Child:
    trial_id: int
    pid: int
    pipe: int
    ends_at: float
    received: bytearray = field(default_factory=bytearray)


def main() -> int:
    """Serve trials until the socket ends."""
    sock = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE]))
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_STACK, (bounds.TRIAL_STACK_BYTES, bounds.TRIAL_STACK_BYTES))
    orders = _Orders(sock)
    while not orders.bodies:
        if not orders.read():
            return 0
    vocabulary = msgspec.msgpack.decode(orders.bodies.popleft(), type=GrammarVocabulary)
    _Trials(sock, orders, make_tokenizer(vocabulary)).serve()
    return 0


class _Orders:
    """The frames that come, without waiting for more than one read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self.bodies: deque[bytes] = deque()

    def read(self) -> bool:
        """Read what is there; False at the end."""
        data = self._sock.recv(_MAX_READ)
        self._received += data
        while len(self._received) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._received)
            end = HEADER.size + length
            if len(self._received) < end:
                break
            self.bodies.append(bytes(self._received[HEADER.size : end]))
            del self._received[:end]
        return bool(data)


class _Trials:
    """The children that run, and the orders that come."""

    def __init__(self, sock: socket.socket, orders: _Orders, tokenizer: object) -> None:
        self._sock = sock
        self._orders = orders
        self._tokenizer = tokenizer
        self._decoder = msgspec.msgpack.Decoder(TrialOrder | TrialCancel)
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    def serve(self) -> None:
        """Run trials; returns when the engine process is gone."""
        while True:
            self._follow_orders()
            for key, _ in self._selector.select(self._patience_seconds()):
                if key.fileobj is not self._sock:
                    self._read_child(key.data)
                elif not self._orders.read():
                    for child in list(self._children.values()):
                        self._kill(child)
                    return
            now = time.monotonic()
            for child in [each for each in self._children.values() if each.ends_at <= now]:
                self._kill(child)
                self._report(TrialOutcome(child.trial_id, "cpu"))

    def _patience_seconds(self) -> float | None:
        if not self._children:
            return None
        return max(0.0, min(each.ends_at for each in self._children.values()) - time.monotonic())

    def _follow_orders(self) -> None:
        while self._orders.bodies:
            message = self._decoder.decode(self._orders.bodies.popleft())
            if isinstance(message, TrialOrder):
                self._start(message)
            elif message.trial_id in self._children:
                self._kill(self._children[message.trial_id])

    def _start(self, order: TrialOrder) -> None:
        readable, writable = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(readable)
            _run_child(self._tokenizer, order, writable, parent)
        os.close(writable)
        ends_at = time.monotonic() + bounds.TRIAL_WALL_SECONDS
        child = _Child(order.trial_id, pid, readable, ends_at)
        self._children[order.trial_id] = child
        self._selector.register(readable, selectors.EVENT_READ, child)

    def _read_child(self, child: _Child) -> None:
        if child.trial_id not in self._children:
            return  # it was ended by an earlier event of this round
        data = os.read(child.pipe, _MAX_READ)
        if data:
            child.received += data
            return
        status = self._reap(child)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            self._report(msgspec.msgpack.decode(child.received, type=TrialOutcome))
        else:
            self._report(TrialOutcome(child.trial_id, _end_by(status)))

    def _kill(self, child: _Child) -> None:
        os.kill(child.pid, signal.SIGKILL)
        self._reap(child)

    def _reap(self, child: _Child) -> int:
        del self._children[child.trial_id]
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        return os.waitpid(child.pid, 0)[1]

    def _report(self, outcome: TrialOutcome) -> None:
        self._sock.sendall(encode_frame(outcome))


def _end_by(status: int) -> TrialEnd:
    """Return what ended a child: a limit, or a fault of the library."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGPROF, signal.SIGXCPU):
        return "cpu"
    # Rust aborts where memory is short; so does the kernel's killer.
    return "memory" if number in (signal.SIGABRT, signal.SIGKILL) else "crashed"


def _run_child(tokenizer: object, order: TrialOrder, pipe: int, parent: int) -> None:
    """Run one trial and leave; never returns."""
    status = 1
    try:
        # The library's panics and aborts are reported by their outcome, not on our log.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            outcome = msgspec.msgpack.encode(run_trial(tokenizer, order))
            view = memoryview(outcome)
            while view:
                view = view[os.write(pipe, view) :]
            status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
