"""gpt-oss: attention with sinks, every other layer over a window, and a mixture of experts.

All layers have the same KV blocks, so a window layer keeps what it no longer sees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_kernels.dispatch import select_ops
from steelyard_kernels.interface import (
    AttentionBatch,
    Experts,
    ExpertWeights,
    Linear,
    Mxfp4,
    Ops,
)
from steelyard_runtime.checkpoint_files.model_config import Mixture, ModelConfig
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.batch import ForwardBatch, KVGeometry
from steelyard_runtime.models.checkpoint import Checkpoint
from steelyard_runtime.models.rope import cos_sin_table
from steelyard_runtime.models.weight_reader import WeightReader


@dataclass(frozen=True, slots=True)
class GptOssLayer:
    """The weights of one layer."""

    input_norm: Tensor  # (hidden,)
    qkv: Linear
    sinks: Tensor  # (heads,) float32
    window: int  # 0: all
    output: Linear
    post_attention_norm: Tensor  # (hidden,)
    router: Linear  # hidden -> experts
    experts: Experts


@dataclass(frozen=True, slots=True)
class GptOssWeights:
    """All weights of a model."""

    embedding: Tensor  # (vocab, hidden)
    layers: list[GptOssLayer]
    final_norm: Tensor  # (hidden,)
    head: Linear  # hidden -> vocab
    cos_sin: Tensor  # (max position, head_dim) float32


class GptOss:
    """See `Model`."""

    def __init__(
        self, config: ModelConfig, weights: GptOssWeights, ops: Ops, kv_geometry: KVGeometry
    ) -> None:
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_position = config.max_position
        self.eos_token_ids = config.eos_token_ids
        self.kv_geometry = kv_geometry
        self.weights = weights
        self.ops = ops
        self.supports_graphs = ops.name == "cuda"
        self.scale = config.head_dim**-0.5

    def forward(self, batch: ForwardBatch, kv_pool: Tensor) -> Tensor:
        """See `Model`."""
        attention = AttentionBatch(
            batch.query_starts,
            batch.context_lens,
            batch.block_tables,
            batch.max_query_len,
            batch.max_context_len,
            batch.single_sequences,
            batch.chunk_context_tokens,
        )
        ops, weights, eps = self.ops, self.weights, self.config.rms_norm_eps
        kv_layers = kv_pool.unbind(1)
        residual = weights.embedding[batch.token_ids]
        x = ops.rms_norm(residual, weights.layers[0].input_norm, eps)
        for index, layer in enumerate(weights.layers):
            if index:
                x = ops.add_rms_norm(x, residual, layer.input_norm, eps)
            query = ops.rope_write_kv(
                layer.qkv(x), weights.cos_sin, batch.positions, batch.slots, kv_layers[index]
            )
            attended = ops.paged_attention(
                query,
                kv_layers[index],
                attention,
                self.scale,
                sinks=layer.sinks,
                window=layer.window,
            )
            x = ops.add_rms_norm(layer.output(attended), residual, layer.post_attention_norm, eps)
            x = layer.experts(x, layer.router(x))
        # Only the wanted rows go through the last norm and the vocabulary.
        rows = batch.logit_rows
        last = ops.add_rms_norm(x[rows], residual[rows], weights.final_norm, eps)
        return weights.head(last).float()


def ops_for(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Ops:
    """Return the ops that a gpt-oss of this shape runs with."""
    return select_ops(
        device,
        dtype,
        config.head_dim,
        config.num_heads // config.num_kv_heads,
        hidden=config.hidden_size,
        block_tokens=block_tokens,
        sinks=True,
    )


def load_gpt_oss(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> GptOss:
    """Read a gpt-oss model's weights; see `registry.load_model`."""
    config = checkpoint.config
    if config.mixture is None:
        raise CheckpointError(f"{checkpoint.path}: gpt-oss is read from safetensors only")
    ops = ops_for(config, device, dtype, block_tokens)
    reader = WeightReader(checkpoint, device, dtype, ops)
    embedding = reader.parameter("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    head = embedding
    if not config.tie_word_embeddings:
        head = reader.parameter("lm_head.weight", config.vocab_size, config.hidden_size)
    weights = GptOssWeights(
        embedding=embedding,
        layers=[
            _layer(reader, config, config.mixture, index) for index in range(config.num_layers)
        ],
        final_norm=reader.parameter("model.norm.weight", config.hidden_size),
        head=ops.linear(head),
        cos_sin=cos_sin_table(config, None, config.max_position).to(device),
    )
    geometry = KVGeometry(
        config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, dtype
    )
    return GptOss(config, weights, ops, geometry)


def _layer(reader: WeightReader, config: ModelConfig, mixture: Mixture, index: int) -> GptOssLayer:
    prefix = f"model.layers.{index}."
    hidden = config.hidden_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = [("self_attn.q_proj", queries), ("self_attn.k_proj", keys)]
    attention.append(("self_attn.v_proj", keys))
    bias = config.attention_bias
    return GptOssLayer(
        input_norm=reader.parameter(prefix + "input_layernorm.weight", hidden),
        qkv=reader.fused(prefix, attention, hidden, bias=bias),
        sinks=reader.parameter(prefix + "self_attn.sinks", config.num_heads, dtype=torch.float32),
        window=config.windows[index],
        output=reader.fused(prefix, [("self_attn.o_proj", hidden)], queries, bias=bias),
        post_attention_norm=reader.parameter(prefix + "post_attention_layernorm.weight", hidden),
        router=reader.fused(prefix, [("mlp.router", mixture.experts)], hidden, bias=True),
        experts=_experts(reader, config, mixture, prefix + "mlp.experts."),
    )


def _experts(reader: WeightReader, config: ModelConfig, mixture: Mixture, prefix: str) -> Experts:
    count, hidden, inner = mixture.experts, config.hidden_size, config.intermediate_size

    def matrix(name: str, rows: int, columns: int) -> Mxfp4:
        shape = (count, rows, columns // 32)
        return Mxfp4(
            reader.parameter(f"{prefix}{name}_blocks", *shape, 16, dtype=torch.uint8),
            reader.parameter(f"{prefix}{name}_scales", *shape, dtype=torch.uint8),
        )

    return reader.ops.experts(
        ExpertWeights(
            gate_up=matrix("gate_up_proj", 2 * inner, hidden),
            gate_up_bias=reader.parameter(prefix + "gate_up_proj_bias", count, 2 * inner),
            down=matrix("down_proj", hidden, inner),
            down_bias=reader.parameter(prefix + "down_proj_bias", count, hidden),
            top=mixture.top,
            alpha=mixture.alpha,
            limit=mixture.limit,
        )
    )
