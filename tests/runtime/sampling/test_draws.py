"""Counter-based draws."""

import pytest

from steelyard_runtime.sampling.draws import DrawKind, philox4x32, uniform


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
