"""Counter-based draws."""

import pytest
import torch

from steelyard_runtime.sampling.draws import DrawKind, philox4x32, token_uniforms, uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The known-answer vectors of the authors' Random123 library come out."""
    assert philox4x32(counter, key) == expected


def test_every_coordinate_changes_the_draw() -> None:
    """Seed, choice, position and kind each lead to another number."""
    coordinates = [
        (1, 0, 0, DrawKind.TOKEN),
        (2, 0, 0, DrawKind.TOKEN),
        (1 << 40, 0, 0, DrawKind.TOKEN),
        (1, 1, 0, DrawKind.TOKEN),
        (1, 0, 1, DrawKind.TOKEN),
        (1, 0, 0, DrawKind.ACCEPT),
    ]

    assert len({uniform(*each) for each in coordinates}) == len(coordinates)


def test_draws_are_uniform() -> None:
    """Ten thousand draws fill ten equal bins evenly (chi-squared, 9 degrees, p = 0.001)."""
    bins = [0] * 10
    for position in range(10_000):
        bins[int(uniform(7, 0, position, DrawKind.TOKEN) * 10)] += 1

    assert sum((count - 1000) ** 2 / 1000 for count in bins) < 27.9


def splitmix64(state: int) -> int:
    """The published mixing function, in Python's integers."""
    mask = (1 << 64) - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_token_draws_are_those_of_the_integer_definition() -> None:
    """Key plus id times the golden ratio, mixed: the top 52 bits, moved by half a step."""
    ids = torch.tensor([0, 1, 2, 49_151, 200_000])
    words = philox4x32((5, 0, 2, 0), (77, 1))
    key = words[0] | words[1] << 32
    expected = [
        ((splitmix64((key + 0x9E3779B97F4A7C15 * i) % 2**64) >> 12) + 0.5) * 2.0**-52
        for i in ids.tolist()
    ]

    assert token_uniforms(ids, 77 + 2**32, 2, 5, DrawKind.TOKEN).tolist() == expected


def test_token_draws_are_uniform() -> None:
    """Ten thousand tokens fill ten equal bins evenly (chi-squared, 9 degrees, p = 0.001)."""
    numbers = token_uniforms(torch.arange(10_000), 7, 0, 3, DrawKind.TOKEN)
    counts = torch.histc(numbers.float(), bins=10, min=0.0, max=1.0)

    assert float(((counts - 1000) ** 2 / 1000).sum()) < 27.9
