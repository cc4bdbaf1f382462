"""What is not served is said, with what is."""

from steelyard_operator.planning.trouble import unsupported
from steelyard_operator.testing import a_service


def test_what_this_version_does_not_serve_is_refused_with_a_sentence() -> None:
    """Serving something else than was asked for would be a lie."""
    small = unsupported(a_service(compression={"weights": "INT4"}), None)

    assert small == "`spec.compression` is not served by this version; remove it"


def test_what_the_backend_says_is_passed_on() -> None:
    """The first obstacle is enough for one sentence."""
    assert unsupported(a_service(), None) is None
    assert unsupported(a_service(model={"uri": "hf://org/name"}), None) is None
    assert unsupported(a_service(), "no") == "no"
