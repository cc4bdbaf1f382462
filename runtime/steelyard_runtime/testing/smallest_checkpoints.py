"""Checkpoints as small as they can be, one of each kind: thousands of them load in a minute."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from steelyard_runtime.testing.byte_tokenizer import VOCAB_SIZE, write_byte_tokenizer
from steelyard_runtime.tokenization.token_bytes import BYTE_OF_LETTER

HIDDEN, WIDE, HEADS, KV_HEADS, HEAD_DIM = 32, 64, 2, 1, 32
EXPERTS = 2
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "eos_token_id": [257],
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
GPT_OSS: dict[str, Any] = LLAMA | {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "sliding_window": 8,
    "layer_types": ["sliding_attention"],
    "quantization_config": {"quant_method": "mxfp4"},
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 32,
    },
}


def write_smallest_llama(folder: Path) -> Path:
    """Write a sharded Hugging Face directory; returns it."""
    target = _directory(folder / "llama", LLAMA)
    names = _attention(bias=False) | {
        f"mlp.{name}.weight": shape
        for name, shape in (
            ("gate_proj", (WIDE, HIDDEN)),
            ("up_proj", (WIDE, HIDDEN)),
            ("down_proj", (HIDDEN, WIDE)),
        )
    }
    layer = {f"model.layers.0.{name}": torch.ones(shape) for name, shape in names.items()}
    save_file(_outer(), target / "model-00001-of-00002.safetensors")
    save_file(layer, target / "model-00002-of-00002.safetensors")
    weight_map = dict.fromkeys(_outer(), "model-00001-of-00002.safetensors")
    weight_map |= dict.fromkeys(layer, "model-00002-of-00002.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def write_smallest_gpt_oss(folder: Path) -> Path:
    """Write a directory whose experts are in MXFP4; returns it."""
    target = _directory(folder / "gpt-oss", GPT_OSS)
    names: dict[str, tuple[int, ...]] = _attention(bias=True) | {
        "self_attn.sinks": (HEADS,),
        "mlp.router.weight": (EXPERTS, HIDDEN),
        "mlp.router.bias": (EXPERTS,),
        "mlp.experts.gate_up_proj_bias": (EXPERTS, 2 * WIDE),
        "mlp.experts.down_proj_bias": (EXPERTS, HIDDEN),
    }
    layer = {name: torch.ones(shape) for name, shape in names.items()}
    for name, rows, columns in (("gate_up_proj", 2 * WIDE, HIDDEN), ("down_proj", HIDDEN, WIDE)):
        shape = (EXPERTS, rows, columns // 32)
        layer[f"mlp.experts.{name}_blocks"] = torch.ones((*shape, 16), dtype=torch.uint8)
        layer[f"mlp.experts.{name}_scales"] = torch.full(shape, 121, dtype=torch.uint8)
    tensors = {f"model.layers.0.{name}": tensor for name, tensor in layer.items()}
    save_file(_outer() | tensors, target / "model.safetensors")
    return target


def write_smallest_gguf(folder: Path) -> Path:
    """Write a GGUF file with its tokenizer; returns it."""
    target = folder / "smallest.gguf"
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = [*list(BYTE_OF_LETTER)[:-1], "ab", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0].content }}")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB_SIZE, HIDDEN),
        "output.weight": (VOCAB_SIZE, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "rope_freqs.weight": (HEAD_DIM // 2,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
        "blk.0.ffn_gate.weight": (WIDE, HIDDEN),
        "blk.0.ffn_up.weight": (WIDE, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, WIDE),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


WRITERS: tuple[Callable[[Path], Path], ...] = (
    write_smallest_llama,
    write_smallest_gpt_oss,
    write_smallest_gguf,
)


def _directory(target: Path, config: dict[str, Any]) -> Path:
    target.mkdir()
    write_byte_tokenizer(target)
    (target / "config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": [257, 256], "temperature": 0.7}
    (target / "generation_config.json").write_text(json.dumps(generation))
    return target


def _outer() -> dict[str, Tensor]:
    return {
        "model.embed_tokens.weight": torch.ones(VOCAB_SIZE, HIDDEN),
        "lm_head.weight": torch.ones(VOCAB_SIZE, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN),
    }


def _attention(*, bias: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of what both kinds have in a layer."""
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    names: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        "self_attn.o_proj.weight": (HIDDEN, queries),
    }
    names |= {f"self_attn.{name}.weight": (rows, HIDDEN) for name, rows in outputs.items()}
    if bias:
        names |= {f"self_attn.{name}.bias": (rows,) for name, rows in outputs.items()}
        names["self_attn.o_proj.bias"] = (HIDDEN,)
    return names
