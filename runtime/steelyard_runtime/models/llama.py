"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU. Llama 2 and 3, SmolLM2.

Query, key and value projections are one matrix, gate and up projections another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_kernels.dispatch import select_ops
from steelyard_kernels.interface import AttentionBatch, Ops
from steelyard_runtime.checkpoint_files.model_config import ModelConfig
from steelyard_runtime.models.batch import ForwardBatch, KVGeometry
from steelyard_runtime.models.checkpoint import Checkpoint
from steelyard_runtime.models.linear import Linear
from steelyard_runtime.models.rope import cos_sin_table


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """The weights of one layer."""

    input_norm: Tensor  # (hidden,)
    qkv: Linear  # hidden -> (heads + 2 * kv_heads) * head_dim
    output: Linear  # heads * head_dim -> hidden
    post_attention_norm: Tensor  # (hidden,)
    gate_up: Linear  # hidden -> 2 * intermediate
    down: Linear  # intermediate -> hidden


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All weights of a model."""

    embedding: Tensor  # (vocab, hidden)
    layers: list[LlamaLayer]
    final_norm: Tensor  # (hidden,)
    head: Linear  # hidden -> vocab
    cos_sin: Tensor  # (max position, head_dim) float32


class Llama:
    """See `Model`."""

    def __init__(
        self, config: ModelConfig, weights: LlamaWeights, ops: Ops, kv_geometry: KVGeometry
    ) -> None:
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_position = config.max_position
        self.eos_token_ids = config.eos_token_ids
        self.kv_geometry = kv_geometry
        self.weights = weights
        self.ops = ops
        self.scale = config.head_dim**-0.5

    def forward(self, batch: ForwardBatch, kv_pool: Tensor) -> Tensor:
        """See `Model`."""
        ops, weights, eps = self.ops, self.weights, self.config.rms_norm_eps
        attention = AttentionBatch(
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.max_query_len,
            batch.max_context_len,
        )
        kv_layers = kv_pool.unbind(1)
        residual = weights.embedding[batch.token_ids]
        x = ops.rms_norm(residual, weights.layers[0].input_norm, eps)
        for index, layer in enumerate(weights.layers):
            if index:
                x = ops.add_rms_norm(x, residual, layer.input_norm, eps)
            query = ops.rope_write_kv(
                layer.qkv(x), weights.cos_sin, batch.positions, batch.slots, kv_layers[index]
            )
            x = layer.output(ops.paged_attention(query, kv_layers[index], attention, self.scale))
            x = ops.add_rms_norm(x, residual, layer.post_attention_norm, eps)
            x = layer.down(ops.silu_and_mul(layer.gate_up(x)))
        # Only the wanted rows go through the last norm and the vocabulary.
        rows = batch.logit_rows
        last = ops.add_rms_norm(x[rows], residual[rows], weights.final_norm, eps)
        return weights.head(last).float()


def load_llama(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Llama:
    """Read a Llama model's weights; see `registry.load_model`."""
    config = checkpoint.config
    reader = _Reader(checkpoint, device, dtype)
    embedding = reader.parameter("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    head = embedding
    if not config.tie_word_embeddings:
        head = reader.parameter("lm_head.weight", config.vocab_size, config.hidden_size)
    table = cos_sin_table(config, checkpoint.rope_factors(), config.max_position)
    weights = LlamaWeights(
        embedding=embedding,
        layers=[_layer(reader, config, index) for index in range(config.num_layers)],
        final_norm=reader.parameter("model.norm.weight", config.hidden_size),
        head=Linear(head),
        cos_sin=table.to(device),
    )
    geometry = KVGeometry(
        config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, dtype
    )
    return Llama(config, weights, select_ops(device, dtype), geometry)


def _layer(reader: "_Reader", config: ModelConfig, index: int) -> LlamaLayer:
    prefix = f"model.layers.{index}."
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = [("self_attn.q_proj", queries), ("self_attn.k_proj", keys)]
    attention.append(("self_attn.v_proj", keys))
    gates = [("mlp.gate_proj", wide), ("mlp.up_proj", wide)]
    bias, mlp_bias = config.attention_bias, config.mlp_bias
    return LlamaLayer(
        input_norm=reader.parameter(prefix + "input_layernorm.weight", hidden),
        qkv=reader.fused(prefix, attention, hidden, bias=bias),
        output=reader.fused(prefix, [("self_attn.o_proj", hidden)], queries, bias=bias),
        post_attention_norm=reader.parameter(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=reader.fused(prefix, gates, hidden, bias=mlp_bias),
        down=reader.fused(prefix, [("mlp.down_proj", hidden)], wide, bias=mlp_bias),
    )


class _Reader:
    """Reads parameters in the model's dtype and puts them on its device."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype

    def parameter(self, name: str, *shape: int) -> Tensor:
        """Return one tensor."""
        host = torch.empty(shape, dtype=self.dtype)
        self.checkpoint.read_into(name, host)
        return host.to(self.device)

    def fused(
        self, prefix: str, parts: list[tuple[str, int]], inputs: int, *, bias: bool
    ) -> Linear:
        """Return projections of the same input, each (name, outputs), as one."""
        outputs = sum(size for _, size in parts)
        weight = torch.empty((outputs, inputs), dtype=self.dtype)
        biases = torch.empty(outputs, dtype=self.dtype) if bias else None
        start = 0
        for name, size in parts:
            rows = slice(start, start + size)
            self.checkpoint.read_into(f"{prefix}{name}.weight", weight[rows])
            if biases is not None:
                self.checkpoint.read_into(f"{prefix}{name}.bias", biases[rows])
            start += size
        return Linear(weight.to(self.device), None if biases is None else biases.to(self.device))
