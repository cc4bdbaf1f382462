"""The engine process's side of trials: the trial process, started when first needed and again.

Thread-safe. An outcome is handed over on the reader thread; a trial process that ends answers all
its trials with `failed`.
"""

import itertools
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import msgspec

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.ipc.framing import BlockingFrames
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.trial import TrialCancel, TrialOrder, TrialOutcome
from steelyard_runtime.structured.trial_process import SOCKET_VARIABLE

TRIAL_COMMAND = (sys.executable, "-m", "steelyard_runtime.structured.trial_process")

log = logging.getLogger(__name__)


class Trials:
    """Starts and cancels trials of grammars; a thread of its own does so, as both may block."""

    def __init__(
        self,
        vocabulary: Callable[[], GrammarVocabulary],
        on_outcome: Callable[[TrialOutcome], None],
        command: Sequence[str] = TRIAL_COMMAND,
    ) -> None:
        self._vocabulary = vocabulary
        self._on_outcome = on_outcome
        self._command = tuple(command)
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[TrialOrder | TrialCancel | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: _TrialProcess | None = None
        self._closed = False

    def start(self, grammar: Grammar, cpu_seconds: float) -> int:
        """Order a trial; returns its id, with which its outcome comes."""
        trial_id = next(self._ids)
        self._orders.put(TrialOrder(trial_id, grammar, cpu_seconds))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._send_orders, name="grammar-orders", daemon=True
            )
            self._thread.start()
        return trial_id

    def cancel(self, trial_id: int) -> None:
        """Kill a trial; no outcome follows, unless it is on its way."""
        self._orders.put(TrialCancel(trial_id))

    @property
    def pid(self) -> int | None:
        """The trial process's id, where there is one."""
        process = self._process
        return None if process is None else process.pid

    def kill(self) -> None:
        """Kill the trial process: it does not answer. Its trials fail; the next one starts anew."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the trial process and its children; no trial starts any more."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        self._orders.put(None)
        if process is not None:
            process.kill()

    def _send_orders(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._send(order)
            except Exception:
                log.exception("a grammar cannot be tried")
                if isinstance(order, TrialOrder):
                    self._on_outcome(TrialOutcome(order.trial_id, "failed"))

    def _send(self, order: TrialOrder | TrialCancel) -> None:
        process = self._process
        if isinstance(order, TrialCancel):
            if process is not None:
                process.cancel(order)
            return
        if process is None or not process.try_grammar(order):
            process = _TrialProcess(self._command, self._vocabulary(), self._on_outcome)
            with self._lock:
                if self._closed:
                    process.kill()
                    return
                self._process = process
            process.try_grammar(order)


class _TrialProcess:
    """One trial process and the thread that reads from it."""

    def __init__(
        self,
        command: Sequence[str],
        vocabulary: GrammarVocabulary,
        on_outcome: Callable[[TrialOutcome], None],
    ) -> None:
        self._on_outcome = on_outcome
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._ended = False
        self._sock, theirs = socket.socketpair()
        environment = {**os.environ, SOCKET_VARIABLE: str(theirs.fileno())}
        try:
            # Its own session, like the engine's: Ctrl-C in a terminal is not for it.
            self._process = subprocess.Popen(
                list(command),
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._frames = BlockingFrames(self._sock)
        self._write(vocabulary)
        threading.Thread(target=self._read, name="grammar-trials", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def try_grammar(self, order: TrialOrder) -> bool:
        """Order a trial; False where the process has ended."""
        with self._lock:
            if self._ended:
                return False
            self._running.add(order.trial_id)
        self._write(order)
        return True

    def cancel(self, order: TrialCancel) -> None:
        with self._lock:
            if order.trial_id not in self._running:
                return
            self._running.discard(order.trial_id)
        self._write(order)

    def kill(self) -> None:
        """End it; the reader thread reaps it."""
        self._process.kill()

    def _write(self, message: object) -> None:
        try:
            self._frames.write(message)
        except OSError:
            log.warning("the grammar trial process is gone")  # the reader answers for it

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(TrialOutcome)
        while (body := self._frames.read()) is not None:
            outcome = decoder.decode(body)
            with self._lock:
                wanted = outcome.trial_id in self._running
                self._running.discard(outcome.trial_id)
            if wanted:
                self._on_outcome(outcome)
        with self._lock:
            self._ended = True
            unanswered, self._running = self._running, set()
        self._process.kill()
        self._process.wait()
        self._sock.close()
        for trial_id in sorted(unanswered):
            self._on_outcome(TrialOutcome(trial_id, "failed"))
