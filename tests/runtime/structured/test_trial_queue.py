"""Whose new grammar is tried next."""

import pytest

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.trial_queue import NewGrammar, TrialLane


def new(client: str, index: int) -> NewGrammar:
    return NewGrammar(f"{client}{index}".encode(), Grammar("json_object"), client)


def taken(lane: TrialLane) -> list[str]:
    """Take and end trials until none waits; returns their clients."""
    clients = []
    while (running := lane.take()) is not None:
        clients.append(running.client)
        lane.running = None
    return clients


def test_clients_take_turns() -> None:
    """Who sends many waits behind himself, not others behind him."""
    lane = TrialLane(1.0)
    for client, number in (("many", 4), ("two", 2), ("one", 1)):
        for index in range(number):
            lane.put(new(client, index))

    assert taken(lane) == ["many", "two", "one", "many", "two", "many", "many"]


def test_one_trial_runs_at_a_time() -> None:
    """The next one is taken when the last has ended."""
    lane = TrialLane(1.0)
    first, second = new("a", 0), new("b", 0)
    lane.put(first)
    lane.put(second)

    assert lane.take() is first
    assert lane.take() is None
    lane.running = None
    assert lane.take() is second


def test_what_left_is_not_tried() -> None:
    """A grammar that is taken out leaves the order of the others."""
    lane = TrialLane(1.0)
    entries = [new("a", 0), new("b", 0), new("a", 1)]
    for entry in entries:
        lane.put(entry)

    assert lane.remove(entries[1])
    assert not lane.remove(entries[1])
    assert taken(lane) == ["a", "a"]


def test_room_is_bounded_for_one_and_for_all() -> None:
    """A client's own bound leaves room for others; a full lane has none for anybody."""
    lane = TrialLane(1.0)
    for index in range(bounds.MAX_QUEUED_TRIALS_OF_ONE):
        lane.put(new("many", index))
    with pytest.raises(RequestError, match="of this client"):
        lane.check_room("many")
    lane.check_room("other")
    for index in range(bounds.MAX_QUEUED_TRIALS - bounds.MAX_QUEUED_TRIALS_OF_ONE):
        lane.put(new(f"other{index}", 0))

    with pytest.raises(RequestError, match="64 of at most 64"):
        lane.check_room("another")
