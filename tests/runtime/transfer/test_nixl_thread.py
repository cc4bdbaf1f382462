"""The thread that calls NIXL, with agents that do what a test says."""

import threading

import pytest

from steelyard_runtime.transfer.nixl_thread import NixlThread, Read


class FakeAgent:
    """An agent whose reads end when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: dict[object, str] = {}
        self.progressed = threading.Event()
        self.destroyed = False
        self.fails = False

    def metadata(self) -> bytes:
        """Stand in for what a peer needs."""
        return self.name.encode()

    def read(self, metadata, base, theirs, ours):
        """Start a read that ends when `states` says so."""
        if self.fails:
            raise RuntimeError("no such peer")
        handle = object()
        self.states[handle] = "PROC"
        return handle, "PROC"

    def state(self, handle) -> str:
        """Return what the test set; a read may also end by an error."""
        if self.states[handle] == "raise":
            raise RuntimeError("remote disconnected")
        return self.states[handle]

    def release(self, handle) -> None:
        """Forget a read."""

    def forget(self, metadata) -> None:
        """Drop a peer."""

    def progress(self) -> None:
        """Note that the agent was driven."""
        self.progressed.set()

    def destroy(self) -> None:
        """End."""
        self.destroyed = True


class Stage:
    """A thread, its agents and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.agents: list[FakeAgent] = []
        self.ends: dict[str, str] = {}
        self.thread = NixlThread(self.make, recycle_seconds=10, clock=lambda: self.now)

    def make(self, purpose: str) -> FakeAgent:
        """Make an agent; the first exports, the others import."""
        self.agents.append(FakeAgent(f"{purpose}-{len(self.agents)}"))
        return self.agents[-1]

    def read(self, name: str) -> Read:
        """Start a read whose end is noted under `name`."""
        read = Read(b"peer", 0, (1,), (2,), lambda state: self.ends.__setitem__(name, state))
        self.thread.read(read)
        return read

    def end(self, agent: FakeAgent, state: str) -> None:
        """End all reads of an agent."""
        agent.states = dict.fromkeys(agent.states, state)


@pytest.fixture
def stage():
    stage = Stage()
    stage.thread.start()
    yield stage
    stage.thread.close()
    assert all(agent.destroyed for agent in stage.agents)


def test_a_read_ends_when_its_agent_says_so(stage, until) -> None:
    """The end of a read is told once NIXL reports it, and the agent goes on."""
    stage.read("a")
    importer = stage.agents[1]
    until(lambda: importer.states, "starting")
    assert stage.ends == {}
    stage.end(importer, "DONE")
    until(lambda: stage.ends == {"a": "DONE"}, "the end of the read")
    assert not importer.destroyed


@pytest.mark.parametrize("state", ["ERR", "raise"])
def test_a_failed_read_ends_with_its_agent(stage, until, state) -> None:
    """Parts of a failed read may still land, so it ends once its agent is gone."""
    stage.read("failed")
    stage.read("live")
    importer = stage.agents[1]
    until(lambda: len(importer.states) == 2, "starting")
    failed, live = importer.states
    importer.states[failed] = state
    until(lambda: stage.thread.recycled == 1, "noticing the failure")
    stage.read("new")
    until(lambda: len(stage.agents) == 3, "a new agent")
    assert stage.ends == {}
    importer.states[live] = "DONE"
    until(lambda: stage.ends == {"live": "DONE", "failed": "ERR"}, "the end of both")
    assert importer.destroyed


def test_a_read_that_cannot_start_ends(stage, until) -> None:
    """An error of NIXL at the start of a read is that read's end."""
    stage.agents[1].fails = True
    stage.read("a")
    until(lambda: stage.ends == {"a": "ERR"}, "the end of the read")


def test_an_abandoned_read_ends_by_itself_if_it_can(stage, until) -> None:
    """A read that ends late, but within the limit, costs no agent."""
    read = stage.read("a")
    until(lambda: stage.agents[1].states, "starting")
    stage.thread.abandon(read)
    stage.end(stage.agents[1], "DONE")
    until(lambda: stage.ends == {"a": "DONE"}, "the end of the read")
    assert not stage.agents[1].destroyed


def test_a_read_that_never_ends_costs_its_agent(stage, until) -> None:
    """After the limit the agent is destroyed, which ends the read; the next read has a new one."""
    read = stage.read("a")
    until(lambda: stage.agents[1].states, "starting")
    stage.thread.abandon(read)
    until(lambda: stage.thread.stuck, "noticing that the read is stuck")
    stage.now = 11
    until(lambda: stage.ends == {"a": "ERR"}, "the end of the read")
    assert stage.agents[1].destroyed
    assert stage.thread.recycled == 1
    stage.read("b")
    until(lambda: len(stage.agents) == 3 and stage.agents[2].states, "starting on a new agent")


def test_other_reads_finish_before_an_agent_is_destroyed(stage, until) -> None:
    """A retired agent lets its live reads end; new ones go to another agent meanwhile."""
    stuck, old = stage.read("stuck"), stage.agents[1]
    stage.read("live")
    until(lambda: len(old.states) == 2, "starting")
    stage.thread.abandon(stuck)
    until(lambda: stage.thread.stuck, "noticing that the read is stuck")
    stage.now = 11
    stage.read("new")
    until(lambda: len(stage.agents) == 3 and stage.agents[2].states, "starting on a new agent")
    assert stage.ends == {}
    assert not old.destroyed
    live = list(old.states)[1]
    old.states[live] = "DONE"
    until(lambda: stage.ends == {"live": "DONE", "stuck": "ERR"}, "the end of both")
    assert old.destroyed


def test_live_reads_do_not_keep_a_retired_agent_for_ever(stage, until) -> None:
    """After twice the limit the agent goes, whatever still runs on it."""
    stuck = stage.read("stuck")
    stage.read("live")
    until(lambda: len(stage.agents[1].states) == 2, "starting")
    stage.thread.abandon(stuck)
    until(lambda: stage.thread.stuck, "noticing that the read is stuck")
    stage.now = 21
    until(lambda: stage.ends == {"live": "ERR", "stuck": "ERR"}, "the end of both")


def test_closing_ends_all_reads(stage) -> None:
    """No read is left without an end."""
    stage.read("a")
    stage.thread.close()
    assert stage.ends == {"a": "ERR"}


def test_exporting_drives_the_exporter(stage) -> None:
    """While peers may read, the exporting agent is driven."""
    assert not stage.agents[0].progressed.is_set()
    stage.thread.export(True)
    assert stage.agents[0].progressed.wait(10)
