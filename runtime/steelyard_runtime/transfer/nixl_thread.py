"""The one thread that calls NIXL: it starts reads, polls while work is pending, and sleeps else.

An exporting agent serves peers and lives as long as the worker. Importing agents read; one with a
read that failed or does not end is retired: new reads get a new agent, and the old one is destroyed
once its other reads are over, which is the only way to be sure that nothing lands any more.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from steelyard_runtime.transfer.nixl_library import Agent, State

# While work is pending; 1-2 % of a core.
POLL_SECONDS = 0.002

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Read:
    """One read, known by the event loop (its future) and by the thread (its handle)."""

    metadata: bytes
    base_address: int
    theirs: tuple[int, ...]
    ours: tuple[int, ...]
    ended: Callable[[State], None]  # called once, on the thread
    abandoned: bool = False  # nobody waits for the bytes, only for the end
    failed: bool = False  # NIXL has given it up; it ends with its agent


@dataclass(slots=True, eq=False)
class Importing:
    """An agent that reads, and its reads that have not ended."""

    agent: Agent
    reads: dict[Read, Any] = field(default_factory=dict)
    stuck_since: float | None = None
    retired: bool = False


class NixlThread:
    """Owns the agents."""

    def __init__(
        self,
        make_agent: Callable[[str], Agent],
        *,
        recycle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_agent = make_agent
        self._recycle_seconds = recycle_seconds
        self._clock = clock
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kv-nixl", daemon=True)
        self._exporter: Agent | None = None
        self._importers: list[Importing] = []
        self._exporting = False
        self._stopping = False
        self.recycled = 0  # agents given up because of a read that failed or did not end

    @property
    def stuck(self) -> bool:
        """Whether an agent has a read that nobody waits for and that does not end."""
        return any(each.stuck_since is not None for each in self._importers)

    # --- any thread -----------------------------------------------------------------------------

    def start(self) -> bytes:
        """Make the agents; returns the exporting agent's metadata.

        Raises:
            Exception: whatever NIXL raises when it cannot make one.
        """
        answer: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

        def make() -> None:
            try:
                self._exporter = self._make_agent("exporter")
                self._importers.append(Importing(self._make_agent("importer")))
                answer.put(self._exporter.metadata())
            except Exception as error:
                self._stopping = True
                answer.put(error)

        self._commands.put(make)
        self._thread.start()
        result = answer.get()
        if isinstance(result, Exception):
            self._thread.join()
            raise result
        return result

    def read(self, read: Read) -> None:
        """Start a read; `read.ended` tells its end."""
        self._commands.put(lambda: self._start_read(read))

    def abandon(self, read: Read) -> None:
        """Nobody waits for this read's bytes any more; it must end soon."""
        read.abandoned = True
        self._commands.put(lambda: None)  # wake up

    def export(self, exporting: bool) -> None:
        """Say whether peers may be reading from here."""
        if exporting != self._exporting:
            self._exporting = exporting
            self._commands.put(lambda: None)  # wake up

    def close(self) -> None:
        """Destroy the agents and end the thread; reads end with ERR."""
        if not self._thread.is_alive():
            return

        def stop() -> None:
            self._stopping = True

        self._commands.put(stop)
        self._thread.join()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            pending = self._exporting or any(each.reads for each in self._importers)
            try:
                with contextlib.suppress(queue.Empty):
                    self._commands.get(timeout=POLL_SECONDS if pending else None)()
                self._drain_commands()
                self._poll()
            except Exception:  # without this thread no read would ever end
                logger.exception("the NIXL thread met something unforeseen")
        for importing in self._importers:
            self._destroy(importing)
        if self._exporter is not None:
            _destroy_agent(self._exporter)
            self._exporter = None
        self._drain_commands()

    def _drain_commands(self) -> None:
        while True:
            try:
                self._commands.get_nowait()()
            except queue.Empty:
                return

    def _start_read(self, read: Read) -> None:
        if self._stopping or read.abandoned:
            read.ended("ERR")
            return
        for each in list(self._importers):
            self._recycle(each)
        importing: Importing | None = None
        try:
            importing = self._current_importer()
            handle, state = importing.agent.read(
                read.metadata, read.base_address, read.theirs, read.ours
            )
        except Exception as error:  # NIXL raises many types; all mean that nothing was started
            logger.warning("a NIXL read cannot start: %s", error)
            if importing is not None:
                importing.agent.forget(read.metadata)
            read.ended("ERR")
            return
        importing.reads[read] = handle
        self._note(importing, read, state)

    def _current_importer(self) -> Importing:
        for importing in self._importers:
            if not importing.retired:
                return importing
        importing = Importing(self._make_agent("importer"))
        self._importers.append(importing)
        return importing

    def _poll(self) -> None:
        if self._exporting and self._exporter is not None:
            try:
                self._exporter.progress()
            except Exception as error:  # a peer that left; the others go on
                logger.debug("the exporting agent: %s", error)
        for importing in list(self._importers):
            for read, handle in list(importing.reads.items()):
                if read.failed:
                    continue
                try:
                    state = importing.agent.state(handle)
                except Exception as error:  # NIXL reports a lost peer by raising
                    logger.debug("a NIXL read ended: %s", error)
                    state = "ERR"
                self._note(importing, read, state)
            self._recycle(importing)

    def _note(self, importing: Importing, read: Read, state: State) -> None:
        """Take note of a read's state; DONE is its end, ERR is the end of its agent."""
        if state == "DONE":
            importing.agent.release(importing.reads.pop(read))
            read.ended("DONE")
        elif state == "ERR":
            # Other parts of the read may still land, as long as the agent lives.
            read.failed = read.abandoned = True
            self._retire(importing)

    def _retire(self, importing: Importing) -> None:
        if not importing.retired:
            importing.retired = True
            self.recycled += 1

    def _recycle(self, importing: Importing) -> None:
        """Retire an agent whose abandoned read does not end; destroy it when it is time."""
        now = self._clock()
        if not any(read.abandoned for read in importing.reads):
            importing.stuck_since = None
        elif importing.stuck_since is None:
            importing.stuck_since = now
        stuck_seconds = 0 if importing.stuck_since is None else now - importing.stuck_since
        if stuck_seconds > self._recycle_seconds:
            self._retire(importing)
        alive = any(not read.abandoned for read in importing.reads)
        if importing.retired and (not alive or stuck_seconds > 2 * self._recycle_seconds):
            self._importers.remove(importing)
            self._destroy(importing)

    def _destroy(self, importing: Importing) -> None:
        reads = list(importing.reads.items())
        importing.reads.clear()
        for _, handle in reads:
            importing.agent.release(handle)
        _destroy_agent(importing.agent)
        for read, _ in reads:
            read.ended("ERR")


def _destroy_agent(agent: Agent) -> None:
    try:
        agent.destroy()
    except Exception:
        logger.exception("a NIXL agent did not end in order")
