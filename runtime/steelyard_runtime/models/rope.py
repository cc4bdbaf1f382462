"""RoPE's table: which angle each position has."""

import math

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.model_config import ModelConfig, RopeScaling


def cos_sin_table(config: ModelConfig, factors: Tensor | None, positions: int) -> Tensor:
    """Return (positions, head_dim) float32: cosines, then sines, of head_dim / 2 angles.

    Args:
        config: theta, scaling and head dimension.
        factors: what divides each frequency (Llama 3.1 GGUF files), or None.
        positions: rows of the table.
    """
    inverse = inverse_frequencies(config)
    if factors is not None:
        inverse = inverse / factors.float()
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Return the angle per position of each pair of dimensions, (head_dim / 2,) float32."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    inverse = 1.0 / (config.rope_theta**exponents)
    if config.rope_scaling is None:
        return inverse
    if config.rope_scaling.kind == "linear":
        return inverse / config.rope_scaling.factor
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
