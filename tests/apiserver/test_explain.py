"""`kubectl explain` tells a user what each field of a block is, and what it may be."""

from typing import Any


def test_rebalancing_is_explained(api: Any) -> None:
    """The short name works; every field has its type, and enums list their values."""
    answer = api.kubectl("explain", "sis.spec.rebalancing")

    assert answer.returncode == 0, answer.stderr
    said = answer.stdout
    assert "KIND:       InferenceService" in said
    for field in ("mode", "cooldownSeconds", "flip"):
        assert f"  {field}\t<" in said, said
        after = said.split(f"  {field}\t<", 1)[1].splitlines()[1:]
        assert any(line.startswith("    ") and len(line.split()) > 3 for line in after[:6]), said
    assert "Recommend" in said
