"""Streams are rewritten event by event, wherever the network cuts them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_runtime.router.replay import is_worker_failure, plan_replay
from steelyard_runtime.router.sse import EventSplitter
from steelyard_runtime.router.transcript import Transcript
from steelyard_runtime.testing.fake_answer import FakeAnswer


def wire(separator: str = "\n\n", **body: object) -> bytes:
    """Return a fake worker's stream."""
    answer = FakeAnswer(
        {"prompt": "x", "max_tokens": 6, "return_token_ids": True, **body},
        chat=True,
        name="one",
        token_ids=True,
        tokens_per_event=1,
    )
    events = [f"data: {json.dumps(event)}" for event, _ in answer.events()]
    return separator.join([": hello", *events, "data: [DONE]", ""]).encode()


def transcript(choices: int = 1) -> Transcript:
    """Return a transcript of a client that asked for nothing special."""
    return Transcript(choices=choices, keep_token_ids=False, keep_timing=False)


@given(st.lists(st.integers(0, 3000), max_size=12), st.sampled_from(["\n\n", "\r\n\r\n"]))
def test_cuts_of_the_network_do_not_matter(cuts: list[int], separator: str) -> None:
    """Any cutting of the bytes gives the same stream, for either kind of line end."""
    whole = transcript().feed(wire())
    data = wire(separator)
    edges = [0, *sorted(cuts), len(data)]
    cut = transcript()

    assert b"".join(cut.feed(data[a:b]) for a, b in pairwise(edges)) == whole
    assert cut.done
    assert cut.complete
    assert len(cut.choices[0].token_ids) == 6


def test_events_of_one_read_are_one_write() -> None:
    """Everything that arrived together goes out together, without comments and token ids."""
    out = transcript().feed(wire())

    assert out.count(b"data: ") == 8
    assert b"token_ids" not in out
    assert b"hello" not in out


def test_multi_line_events_are_joined() -> None:
    """Data over several lines and other SSE fields are read as the standard says."""
    splitter = EventSplitter()

    assert splitter.feed(b"event: x\ndata: a\ndata: b\nid: 1\n\ndata:c\n\n: note\n\n") == [
        b"a\nb",
        b"c",
    ]


@pytest.mark.parametrize(
    ("choices", "tokens", "plan"),
    [(1, 0, "fresh"), (1, 3, "resume"), (2, 3, "whole"), (1, 6, "close")],
)
def test_plan_follows_what_was_sent(choices: int, tokens: int, plan: str) -> None:
    """One choice is resumed, several are replayed whole, nothing sent is begun again."""
    events = wire(n=choices).split(b"\n\n")[: 1 + choices + tokens * choices]
    seen = transcript(choices)
    seen.feed(b"\n\n".join([*events, b""]))

    assert plan_replay(seen) == plan


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"code": 503}, True),
        ({"code": "502"}, True),
        ({"code": 400}, False),
        ({"type": "server_error", "code": "engine_dead"}, True),
        ({"type": "invalid_request_error", "code": None}, False),
        ({}, False),
    ],
)
def test_errors_of_workers_and_of_requests_differ(error: dict[str, object], failure: bool) -> None:
    """Only errors that another worker may not have lead to a replay."""
    assert is_worker_failure(error) == failure
