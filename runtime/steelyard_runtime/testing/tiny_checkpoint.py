"""A small random Llama with SmolLM2's tokenizer: fast to start and run, with KV blocks of 512 KiB.

The blocks are large for the model, so that a transfer is some work and can be caught midway.
"""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from steelyard_runtime.bench.float32_checkpoint import (
    config_document,
    weight_shapes,
    write_tokenizer,
)
from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.processes import SMOLLM2

# Large enough that the next token depends on the prompt and outputs do not fall into loops.
WEIGHT_DEVIATION = 0.2


def write_tiny_checkpoint(target: Path, seed: int = 0) -> None:
    """Write a Hugging Face directory to `target`; the weights follow from `seed`."""
    source = resolve(SMOLLM2)
    config = dataclasses.replace(
        read_model_config(source),
        hidden_size=64,
        intermediate_size=128,
        num_layers=8,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        max_position=2048,
    )
    write_tokenizer(source, target)
    (target / "config.json").write_text(json.dumps(config_document(config)))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) * WEIGHT_DEVIATION
        for name, shape in weight_shapes(config).items()
    }
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight.add_(1.0)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
