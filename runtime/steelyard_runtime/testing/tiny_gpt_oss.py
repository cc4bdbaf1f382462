"""A small random gpt-oss in its released form, and the same model in transformers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from steelyard_kernels.interface import Mxfp4
from steelyard_kernels.reference.experts import dequantize
from steelyard_runtime.testing.oracle import Oracle

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "sliding_window": 24,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


def write_tiny_gpt_oss(directory: Path, seed: int = 0, **changes: Any) -> Oracle:
    """Write a checkpoint whose experts are in MXFP4; return transformers' model of its weights."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(seed)
    config = GptOssConfig(**(SHAPE | changes))
    model = GptOssForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # Norms, biases and sinks start at constants.
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, columns, rows = parameter.shape
            weight = Mxfp4(
                torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8),
                torch.randint(121, 125, (experts, rows, columns // 32), dtype=torch.uint8),
            )
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = weight.blocks, weight.scales
            parameter.copy_(dequantize(weight, torch.float32).transpose(1, 2))
        else:
            if name.endswith("_bias"):
                parameter.normal_(std=0.3)
            tensors[name] = parameter.clone().contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    document = config.to_dict()
    document["architectures"] = ["GptOssForCausalLM"]
    document["quantization_config"] = {"quant_method": "mxfp4"}
    (directory / "config.json").write_text(json.dumps(document, default=str))
    return Oracle(model)
