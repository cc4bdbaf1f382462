"""RoPE's table: which angle each position has."""

import math

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.model_config import ModelConfig, RopeScaling
from steelyard_runtime.errors import CheckpointError


def cos_sin_table(config: ModelConfig, factors: Tensor | None, positions: int) -> Tensor:
    """Return (positions, head_dim) float32: cosines, then sines, of head_dim / 2 angles.

    Args:
        config: theta, scaling and head dimension.
        factors: what divides each frequency (Llama 3.1 GGUF files), or None.
        positions: rows of the table.

    Raises:
        CheckpointError: theta, scaling or factors give angles that are no numbers.
    """
    inverse = inverse_frequencies(config)
    if factors is not None:
        inverse = inverse / factors.float()
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    table *= config.rope_scaling.attention_factor if config.rope_scaling else 1.0
    if not bool(table.isfinite().all()):
        raise CheckpointError("RoPE's angles are not finite; its factors are damaged")
    return table


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Return the angle per position of each pair of dimensions, (head_dim / 2,) float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    inverse = 1.0 / (config.rope_theta**exponents)
    if config.rope_scaling is None:
        return inverse
    if config.rope_scaling.kind == "linear":
        return inverse / config.rope_scaling.factor
    if config.rope_scaling.kind == "yarn":
        return _yarn(inverse, config.rope_scaling, config.rope_theta)
    return _llama3(inverse, config.rope_scaling)


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch low frequencies only, as `_compute_llama3_parameters` of transformers does."""
    wavelength = 2 * math.pi / inverse
    turns = scaling.original_max_position / wavelength
    smooth = (turns - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = smooth.clamp(0.0, 1.0)
    return (1 - smooth) * inverse / scaling.factor + smooth * inverse


def _yarn(inverse: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Stretch low frequencies only, with a ramp (Peng et al.: "YaRN", 2023, section 3.2)."""
    pairs = len(inverse)

    def pair_that_turns(rotations: float) -> float:
        wavelength = scaling.original_max_position / (rotations * 2 * math.pi)
        return pairs * math.log(wavelength) / math.log(theta)

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    ramp = (torch.arange(pairs, dtype=torch.float32) - low) / max(high - low, 1e-3)
    stretched = ramp.clamp(0.0, 1.0)
    return stretched * inverse / scaling.factor + (1 - stretched) * inverse
