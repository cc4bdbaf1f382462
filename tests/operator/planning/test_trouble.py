"""What is not served is said, with what is."""

from steelyard_operator.planning.trouble import troubles, unsupported
from steelyard_operator.testing import NOON, a_service, saw, wanted


def test_what_this_version_does_not_serve_is_refused_with_a_sentence() -> None:
    """Serving something else than was asked for would be a lie."""
    small = unsupported(a_service(compression={"weights": "INT4"}), None)

    assert small == "`spec.compression` is not served by this version; remove it"


def test_what_the_backend_says_is_passed_on() -> None:
    """The first obstacle is enough for one sentence."""
    assert unsupported(a_service(), None) is None
    assert unsupported(a_service(model={"uri": "hf://org/name"}), None) is None
    assert unsupported(a_service(), "no") == "no"


def test_pods_and_objects_that_were_refused_are_both_told() -> None:
    """A quota on pods and a kind that is not known are two obstacles; neither needs an edit."""
    seen = saw(refused="exceeded quota", refused_object="no kind HTTPRoute")

    found = list(troubles(wanted(), seen, NOON, refusal=None))

    assert [(each.reason, each.stalled) for each in found] == [("RefusedByApiServer", False)] * 2
    assert "exceeded quota" in found[0].message
    assert "no kind HTTPRoute" in found[1].message


def test_what_passes_by_itself_is_told_and_stalls_nothing() -> None:
    """Pods that wait for others of the namespace, and an error inside the operator."""
    seen = saw(queued=True, internal="OverflowError: too large")

    found = list(troubles(wanted(), seen, NOON, refusal=None))

    assert [(each.reason, each.stalled) for each in found] == [
        ("InternalError", False),
        ("Queued", False),
    ]
    assert "OverflowError: too large" in found[0].message
