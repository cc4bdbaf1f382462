"""Events: said once in ten minutes, cut to what the API server takes, and never in the way."""

from typing import Any

import pytest

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.events import SAID_AGAIN_SECONDS, Events, Happening
from steelyard_operator.render.owner import Owner

pytestmark = pytest.mark.anyio

OWNER = Owner("demo", "default", "uid-1")


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At zero."""
    return Clock()


@pytest.fixture
def events(client: Client, clock: Clock) -> Events:
    """Of one operator."""
    return Events(client, "operator-1", clock=clock)


async def test_an_event_says_of_whom_and_by_whom(server: Any, events: Events) -> None:
    """As `kubectl describe` looks for it."""
    server.says({}, status=201)
    await events.tell(OWNER, Happening("Refused", "no quota", "Applying", warning=True))

    method, path, _ = server.asked[0]
    body = server.bodies[0]
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert body["regarding"]["uid"] == "uid-1"
    assert (body["type"], body["reason"], body["note"]) == ("Warning", "Refused", "no quota")
    assert body["reportingInstance"] == "operator-1"


async def test_the_same_is_not_said_again_soon(server: Any, events: Events, clock: Clock) -> None:
    """But another sentence is, and the same one after its time."""
    for _ in range(3):
        server.says({}, status=201)
    first, second = (Happening("Refused", note, "Applying") for note in ("no quota", "no room"))
    await events.tell(OWNER, first)
    await events.tell(OWNER, first)
    await events.tell(OWNER, second)
    assert [body["note"] for body in server.bodies] == ["no quota", "no room"]

    clock.now = SAID_AGAIN_SECONDS
    await events.tell(OWNER, first)
    assert [body["note"] for body in server.bodies] == ["no quota", "no room", "no quota"]


async def test_a_note_is_cut_by_bytes_between_characters(server: Any, events: Events) -> None:
    """The API server refuses 1,025 bytes, and half a character is none."""
    server.says({}, status=201)
    await events.tell(OWNER, Happening("Refused", "x" + "ü" * 600, "Applying"))

    note = server.bodies[0]["note"]
    assert note == "x" + "ü" * 511
    assert len(note.encode()) == 1023


async def test_a_lost_event_stops_nothing(
    server: Any, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""
    server.says({"kind": "Status", "message": "no"}, status=403)
    await events.tell(OWNER, Happening("Created", "made a worker", "Creating"))

    assert "default/demo: an event was lost" in caplog.text
