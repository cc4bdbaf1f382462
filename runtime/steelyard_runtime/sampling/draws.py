"""Counter-based random numbers: a draw is a function of its coordinates, never of a state.

So seeded text survives batching, preemption, replay on another worker and verification of draft
tokens. The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as
easy as 1, 2, 3", SC 2011); this integer implementation is the reference for every device.
"""

from enum import IntEnum

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ROUNDS = 10


class DrawKind(IntEnum):
    """What a draw decides; part of its coordinates, so that kinds never share a number."""

    TOKEN = 0
    ACCEPT = 1
    RESAMPLE = 2


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Return the four 32-bit words of Philox4x32-10 at `counter` under `key`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = _MULTIPLIERS[0] * c0
        p1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0 = (k0 + _WEYL[0]) & _WORD
        k1 = (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, choice_index: int, position: int, kind: DrawKind) -> float:
    """Return a number in [0, 1) with 53 random bits.

    Args:
        seed: the request's seed; its low 64 bits count.
        choice_index: which of the n choices.
        position: index of the output token that the draw is for.
        kind: what is decided.
    """
    key = (seed & _WORD, (seed >> 32) & _WORD)
    words = philox4x32((position & _WORD, position >> 32, choice_index, int(kind)), key)
    return ((words[0] >> 5) * (1 << 26) + (words[1] >> 6)) * 2.0**-53
