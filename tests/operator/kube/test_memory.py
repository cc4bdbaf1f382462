"""When a service is looked at again although nobody tells of a change."""

from steelyard_operator.kube.acting import Result
from steelyard_operator.kube.memory import (
    FIRST_REFUSAL_SECONDS,
    LONGEST_REFUSAL_SECONDS,
    Memory,
)


def test_nothing_is_awaited_at_first() -> None:
    """The resync comes anyway."""
    assert Memory().look_again_after(0.0) is None


def test_attempts_become_rarer_while_pods_are_refused() -> None:
    """Up to a minute."""
    memory, waits = Memory(), []
    for _ in range(6):
        memory.note(Result(refused="no quota"), 100.0)
        waits.append(memory.look_again_after(100.0))

    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert waits[0] == FIRST_REFUSAL_SECONDS
    assert waits[-1] == LONGEST_REFUSAL_SECONDS


def test_the_first_of_all_reasons_counts() -> None:
    """A slot is tried again when its time is over, long before the resync."""
    memory = Memory(foreign_slots={2: (130.0, "taken"), 3: (110.0, "taken")})
    assert memory.look_again_after(100.0) == 10.0

    memory.refused_object = "no quota for Services"
    memory.foreign_slots = {}
    assert memory.look_again_after(100.0) == LONGEST_REFUSAL_SECONDS


def test_a_suspended_service_waits_for_nothing() -> None:
    """A refusal whose time is over would ask for the next pass at once, for ever."""
    memory = Memory(refused_object="no quota for Services")
    memory.note(Result(refused="no quota"), 100.0)
    memory.forget_refusals()

    assert memory.look_again_after(1000.0) is None
    assert memory.refused is None
    assert memory.refused_until < 0.0
