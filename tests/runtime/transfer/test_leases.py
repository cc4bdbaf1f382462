"""The lease table: when a lease lives, and that it ends once, for one reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_runtime.transfer.leases import LeaseTable


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> LeaseTable:
    return LeaseTable(30, clock)


def test_a_lease_lives_for_its_time(table, clock) -> None:
    """A lease is there until its time is over and gone after."""
    lease = table.add("r", [1, 2], 20)
    clock.now += 29
    assert table.get("r") is lease
    assert table.remaining_seconds(lease) == 1
    clock.now += 1
    assert table.get("r") is None


def test_a_heartbeat_pushes_the_end_back(table, clock) -> None:
    """A renewed lease lives for another full time."""
    table.add("r", [1], 16)
    clock.now += 29
    assert table.renew("r")
    clock.now += 29
    assert table.expire() == []
    clock.now += 1
    assert table.expire() == ["r"]


def test_a_lease_that_ran_out_cannot_be_renewed(table, clock) -> None:
    """A late heartbeat does not bring blocks back that may be reused."""
    table.add("r", [1], 16)
    clock.now += 30
    assert not table.renew("r")


def test_a_pinned_lease_does_not_expire_but_lives_on(table, clock) -> None:
    """A lease that is being read outlives its time, and starts afresh after the read."""
    lease = table.add("r", [1], 16)
    table.pin(lease)
    clock.now += 100
    assert table.expire() == []
    assert table.get("r") is lease
    assert table.unpin(lease) is None
    clock.now += 29
    assert table.get("r") is lease


def test_the_end_of_a_pinned_lease_waits_for_the_last_pin(table) -> None:
    """Blocks that are being sent are not freed under the sender."""
    lease = table.add("r", [1], 16)
    table.pin(lease)
    table.pin(lease)
    assert table.end("r", "done") is None
    assert table.get("r") is None
    assert table.unpin(lease) is None
    assert table.unpin(lease) == "done"
    assert len(table) == 0


def test_an_ended_lease_ends_once(table) -> None:
    """The second notification finds nothing."""
    table.add("r", [1], 16)
    assert table.end("r", "done") == "done"
    assert table.end("r", "aborted") is None


def test_a_second_lease_of_a_request_is_refused(table) -> None:
    """A request has one lease at a time."""
    table.add("r", [1], 16)
    with pytest.raises(ValueError, match="already has a lease"):
        table.add("r", [2], 16)


def test_expired_leases_are_remembered_but_not_for_ever(table, clock) -> None:
    """A late notification is told from a wrong one, within bounds."""
    for number in range(1100):
        table.add(f"r{number}", [number], 16)
    clock.now += 30
    assert len(table.expire()) == 1100
    assert table.was_expired("r1099")
    assert not table.was_expired("r0")


STEPS = st.tuples(
    st.sampled_from(["add", "renew", "pin", "unpin", "end", "expire"]), st.integers(0, 3)
)


@given(st.lists(STEPS, max_size=60), st.lists(st.floats(0, 40), min_size=60, max_size=60))
def test_every_lease_ends_exactly_once(steps, waits) -> None:
    """Whatever happens in whatever order, the ends equal the leases, and no pinned one ends."""
    clock = Clock()
    table = LeaseTable(30, clock)
    live, pins, ends, added = {}, {}, 0, 0
    for (step, number), wait in zip(steps, waits, strict=False):
        clock.now += wait
        name = f"r{number}"
        match step:
            case "add" if name not in live:
                live[name], pins[name], added = table.add(name, [number], 16), 0, added + 1
            case "renew":
                table.renew(name)
            case "pin" if table.get(name) is not None:
                table.pin(live[name])
                pins[name] += 1
            case "unpin" if pins.get(name):
                pins[name] -= 1
                if table.unpin(live[name]) is not None:
                    assert pins[name] == 0
                    ends, _ = ends + 1, live.pop(name)
            case "end":
                if table.end(name, "done") is not None:
                    assert pins[name] == 0
                    ends, _ = ends + 1, live.pop(name)
            case "expire":
                for over in table.expire():
                    assert pins[over] == 0
                    ends, _ = ends + 1, live.pop(over)
        assert len(table) == len(live) == added - ends
