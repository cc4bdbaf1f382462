"""What an operator's environment variables may say."""

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.settings import from_environment


@pytest.mark.parametrize(("text", "namespaces"), [("", ()), ("a", ("a",)), ("a, b", ("a", "b"))])
def test_namespaces_stand_with_commas(text: str, namespaces: tuple[str, ...]) -> None:
    """None of them means all."""
    assert from_environment({"STEELYARD_NAMESPACE": text}).namespace == namespaces


def test_a_tick_is_a_number_of_seconds() -> None:
    """Fractions too."""
    assert from_environment({"STEELYARD_TICK_SECONDS": "2.5"}).tick_seconds == 2.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0", "STEELYARD_TICK_SECONDS must be above 0, got '0'"),
        ("-1", "STEELYARD_TICK_SECONDS must be above 0, got '-1'"),
        ("often", "STEELYARD_TICK_SECONDS must be a number, got 'often'"),
    ],
)
def test_a_tick_that_is_none_is_refused(text: str, sentence: str) -> None:
    """Before anything is read again and again without a pause."""
    with pytest.raises(UserError, match=sentence):
        from_environment({"STEELYARD_TICK_SECONDS": text})
