"""Writes a GGUF checkpoint as float32 safetensors in a Hugging Face directory.

So that every engine of a comparison computes with the same weights.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from steelyard_runtime.checkpoint_files.model_config import ModelConfig
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.tokenization.loading import load_tokenizer


def write_float32_directory(source: Path, target: Path) -> None:
    """Write weights, configuration and tokenizer of `source` to the directory `target`.

    Raises:
        CheckpointError: the source cannot be read.
    """
    checkpoint = open_checkpoint(source)
    write_tokenizer(source, target)
    (target / "config.json").write_text(json.dumps(config_document(checkpoint.config)))
    weights = {}
    for name, shape in weight_shapes(checkpoint.config).items():
        weights[name] = torch.empty(shape, dtype=torch.float32)
        checkpoint.read_into(name, weights[name])
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer of `source` to the directory `target`.

    Raises:
        CheckpointError: the source cannot be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(source)
    (target / "tokenizer.json").write_text(tokenizer.to_json())
    ends = [tokenizer.token_string(each) for each in tokenizer.eos_token_ids]
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ends[0],
        "bos_token": tokenizer.token_string(tokenizer.bos_token_id),
        "chat_template": tokenizer.chat_templates.get("default", ""),
        "model_max_length": open_checkpoint(source).config.max_position,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings))


def config_document(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a Llama."""
    return {
        "architectures": [config.architecture],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "eos_token_id": sorted(config.eos_token_ids)[0],
    }


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a Llama, by Hugging Face's names."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.num_layers):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes
