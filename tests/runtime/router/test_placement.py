"""Which worker is chosen and why: pure decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_runtime.router.placement import Prompt, place, place_anywhere
from steelyard_runtime.router.scoring import Candidate, score


def worker(name: str, role: str = "both", **known: object) -> Candidate:
    """Return an idle, cold worker."""
    fields: dict[str, object] = {
        "worker_id": name,
        "role": role,
        "fingerprint": "f",
        "in_flight": 0,
        "warm_tokens": 0,
        "recent_failures": 0,
        "last_picked": 0,
    }
    return Candidate(**{**fields, **known})  # type: ignore[arg-type]  # a builder


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (worker("a", in_flight=1), worker("b", in_flight=2)),
        (worker("a", warm_tokens=500), worker("b")),
        (worker("a", warm_tokens=500, in_flight=3), worker("b")),
        (worker("b"), worker("a", warm_tokens=500, in_flight=9)),
        (worker("b"), worker("a", recent_failures=1)),
        (worker("b", last_picked=1), worker("a", last_picked=2)),
        (worker("b", warm_tokens=900), worker("a", warm_tokens=300)),
    ],
    ids=["load", "warm", "warm-beats-load", "load-beats-warm", "failures", "turns", "warmer"],
)
def test_better_worker_decodes(better: Candidate, worse: Candidate) -> None:
    """Load, warm prefix, recent failures and turns decide, in terms that add up."""
    placement = place(Prompt(2000), [worse, better], min_remote_prefill_tokens=64)

    assert placement is not None
    assert placement.decode is better


@pytest.mark.parametrize(
    ("prompt", "candidates", "decision", "prefill"),
    [
        (Prompt(500), [worker("d", "decode"), worker("p", "prefill")], "remote", "p"),
        (Prompt(63), [worker("d", "decode"), worker("p", "prefill")], "short", None),
        (
            Prompt(500),
            [worker("d", "decode", warm_tokens=450), worker("p", "prefill")],
            "warm",
            None,
        ),
        (Prompt(500), [worker("d", "decode")], "no_prefill_worker", None),
        (
            Prompt(500),
            [worker("d", "decode"), worker("p", "prefill", fingerprint="g")],
            "no_prefill_worker",
            None,
        ),
        (
            Prompt(500),
            [worker("d", "decode", fingerprint=None), worker("p", "prefill")],
            "no_prefill_worker",
            None,
        ),
        (
            Prompt(500),
            [worker("d", "decode", fingerprint=None), worker("p", "prefill", fingerprint=None)],
            "remote",
            "p",
        ),
        (Prompt(500), [worker("a"), worker("b")], "no_prefill_worker", None),
        (Prompt(500), [worker("a"), worker("p", "prefill")], "remote", "p"),
        (Prompt(500), [worker("d", "decode"), worker("b", in_flight=9)], "remote", "b"),
        (
            Prompt(500),
            [
                worker("d", "decode"),
                worker("p", "prefill", in_flight=2),
                worker("q", "prefill", in_flight=1),
            ],
            "remote",
            "q",
        ),
        (
            Prompt(500, transferable=False),
            [worker("d", "decode"), worker("p", "prefill")],
            "unsuitable",
            None,
        ),
    ],
)
def test_remote_prefill_is_decided(
    prompt: Prompt, candidates: list[Candidate], decision: str, prefill: str | None
) -> None:
    """A remote prefill needs a long cold prompt and a partner of the same KV layout."""
    placement = place(prompt, candidates, min_remote_prefill_tokens=64)

    assert placement is not None
    assert placement.decision == decision
    assert (placement.prefill and placement.prefill.worker_id) == prefill


@given(st.integers(0, 5000), st.integers(0, 10_000))
def test_threshold_of_zero_always_prefills_elsewhere(tokens: int, warm: int) -> None:
    """With `--min-remote-prefill-tokens 0` no prompt is too short or too warm."""
    candidates = [worker("d", "decode", warm_tokens=warm), worker("p", "prefill")]
    placement = place(Prompt(tokens), candidates, min_remote_prefill_tokens=0)

    assert placement is not None
    assert placement.decision == "remote"


def test_decoder_with_a_partner_is_preferred() -> None:
    """Of two equal decode workers, the one that a prefill worker can hand over to is chosen."""
    candidates = [
        worker("a", "decode", fingerprint="old"),
        worker("b", "decode", fingerprint="new"),
        worker("p", "prefill", fingerprint="new"),
    ]
    placement = place(Prompt(500), candidates, min_remote_prefill_tokens=64)

    assert placement is not None
    assert placement.decode.worker_id == "b"


def test_prefill_workers_do_not_decode_unless_nothing_else_does() -> None:
    """`place` leaves prefill workers out, `place_anywhere` takes them."""
    only = [worker("p", "prefill")]

    assert place(Prompt(5), only, min_remote_prefill_tokens=64) is None
    anywhere = place_anywhere(only)
    assert anywhere is not None
    assert anywhere.decode.worker_id == "p"


candidates_of = st.lists(
    st.builds(
        Candidate,
        worker_id=st.uuids().map(str),
        role=st.sampled_from(["prefill", "decode", "both"]),
        fingerprint=st.sampled_from([None, "a", "b"]),
        in_flight=st.integers(0, 100),
        warm_tokens=st.integers(0, 10_000),
        recent_failures=st.integers(0, 2),
        last_picked=st.integers(0, 1000),
    ),
    max_size=8,
)


@given(candidates_of, st.integers(0, 10_000))
def test_pairs_always_fit(candidates: list[Candidate], tokens: int) -> None:
    """Whatever the pool is, the chosen pair can exchange KV and are two workers."""
    placement = place(Prompt(tokens), candidates, min_remote_prefill_tokens=64)
    if placement is None:
        assert all(one.role == "prefill" for one in candidates)
        return

    assert placement.decode.role != "prefill"
    assert (placement.prefill is not None) == (placement.decision == "remote")
    if placement.prefill is not None:
        assert placement.prefill.fingerprint == placement.decode.fingerprint
        assert placement.prefill.worker_id != placement.decode.worker_id


@given(candidates_of)
def test_scores_explain_themselves(candidates: list[Candidate]) -> None:
    """Every candidate is scored, best first, and each total is the sum of its terms."""
    scores = score(candidates, frozenset({"a"}))

    assert sorted(one.candidate.worker_id for one in scores) == sorted(
        one.worker_id for one in candidates
    )
    totals = [one.load + one.affinity + one.fingerprint + one.health for one in scores]
    assert totals == sorted(totals, reverse=True)
