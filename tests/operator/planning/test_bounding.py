"""What a resource says to its planner."""

import pytest

from steelyard_operator.planning.bounding import max_sequences
from steelyard_operator.testing import a_service


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["--max-num-seqs", "8"], 8),
        (["--max-num-seqs=9"], 9),
        (["--max-num-seqs"], None),
        (["--seed", "3"], None),
    ],
)
def test_a_batch_is_as_large_as_the_resource_says(arguments: list[str], most: int | None) -> None:
    """The metrics of vLLM do not tell it."""
    assert max_sequences(a_service(runtime={"extraArgs": arguments})) == most
