"""Counter-based random numbers: a draw is a function of its coordinates, never of a state.

So seeded text survives batching, preemption, replay on another worker and verification of draft
tokens. The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as
easy as 1, 2, 3", SC 2011); this integer implementation is the reference for every device.
"""

from enum import IntEnum

from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ROUNDS = 10
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


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
    words = _words(seed, choice_index, position, kind)
    return ((words[0] >> 5) * (1 << 26) + (words[1] >> 6)) * 2.0**-53


def token_uniforms(
    ids: Tensor, seed: int, choice_index: int, position: int, kind: DrawKind
) -> Tensor:
    """Return a number in (0, 1) for each token id; the other arguments are those of `uniform`.

    The generator gives a key for the position, and the mixing function of SplitMix64 (Steele, Lea,
    Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014) goes from key and id to
    the number: a tenth of the cost of a generator step for each of a vocabulary's tokens.

    Args:
        ids: (C,) int64.
        seed: see `uniform`.
        choice_index: see `uniform`.
        position: see `uniform`.
        kind: see `uniform`.

    Returns:
        (C,) float64.
    """
    words = _words(seed, choice_index, position, kind)
    # int64 wraps around, as it must here.
    mixed = (ids * _signed(_GOLDEN)).add_(_signed(words[0] | words[1] << 32))
    mixed ^= _shifted(mixed, 30)
    mixed *= _signed(_MIX[0])
    mixed ^= _shifted(mixed, 27)
    mixed *= _signed(_MIX[1])
    mixed ^= _shifted(mixed, 31)
    # 52 bits: half a step more would round up to 1.
    return _shifted(mixed, 12).double().add_(0.5).mul_(2.0**-52)


def _words(seed: int, choice_index: int, position: int, kind: DrawKind) -> tuple[int, ...]:
    key = (seed & _WORD, (seed >> 32) & _WORD)
    return philox4x32((position & _WORD, position >> 32, choice_index, int(kind)), key)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift right without copies of the sign, which torch has no operator for."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
