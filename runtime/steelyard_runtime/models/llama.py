"""Llama: RMSNorm, RoPE, grouped-query attention, SwiGLU. Llama 2 and 3, SmolLM2, Qwen 2 and 3.

Qwen 2 has biases at queries, keys and values; Qwen 3 normalises each head of queries and keys.
Query, key and value projections are one matrix, gate and up projections another.
"""

import torch
from torch import Tensor

from steelyard_kernels.dispatch import fused_llama, select_ops
from steelyard_kernels.interface import AttentionBatch, Ops
from steelyard_kernels.llama_weights import LlamaLayer, LlamaShape, LlamaWeights
from steelyard_runtime.checkpoint_files.model_config import ModelConfig
from steelyard_runtime.models.batch import ForwardBatch, KVGeometry
from steelyard_runtime.models.checkpoint import Checkpoint
from steelyard_runtime.models.rope import cos_sin_table
from steelyard_runtime.models.weight_reader import WeightReader


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
        self.supports_graphs = ops.name == "cuda"
        self.scale = config.head_dim**-0.5
        self._fused = fused_llama(
            ops,
            LlamaShape(
                config.hidden_size,
                config.num_heads,
                config.num_kv_heads,
                config.head_dim,
                config.intermediate_size,
                config.vocab_size,
                config.rms_norm_eps,
            ),
            weights,
        )

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
        if self._fused is not None:
            return self._fused(
                batch.token_ids,
                batch.positions,
                batch.slots,
                attention=attention,
                logit_rows=batch.logit_rows,
                kv_pool=kv_pool,
            )
        return self._by_ops(batch, attention, kv_pool)

    def _by_ops(self, batch: ForwardBatch, attention: AttentionBatch, kv_pool: Tensor) -> Tensor:
        """Compute op by op: what the fused pass must equal."""
        ops, weights, eps = self.ops, self.weights, self.config.rms_norm_eps
        kv_layers = kv_pool.unbind(1)
        residual = weights.embedding[batch.token_ids]
        x = ops.rms_norm(residual, weights.layers[0].input_norm, eps)
        for index, layer in enumerate(weights.layers):
            if index:
                x = ops.add_rms_norm(x, residual, layer.input_norm, eps)
            qkv = layer.qkv(x)
            if layer.head_norm is not None:
                norm_heads(qkv, layer.head_norm, eps)
            query = ops.rope_write_kv(
                qkv, weights.cos_sin, batch.positions, batch.slots, kv_layers[index]
            )
            x = layer.output(ops.paged_attention(query, kv_layers[index], attention, self.scale))
            x = ops.add_rms_norm(x, residual, layer.post_attention_norm, eps)
            x = layer.down(ops.silu_and_mul(layer.gate_up(x)))
        # Only the wanted rows go through the last norm and the vocabulary.
        rows = batch.logit_rows
        last = ops.add_rms_norm(x[rows], residual[rows], weights.final_norm, eps)
        return weights.head(last).float()


def norm_heads(qkv: Tensor, weight: Tensor, eps: float) -> None:
    """Normalise each head of queries and keys in place: RMSNorm over the head.

    Args:
        qkv: (T, (heads + 2 * kv_heads) * head_dim).
        weight: (heads + kv_heads, head_dim).
        eps: added to the mean square.
    """
    heads = qkv[:, : weight.numel()].view(len(qkv), *weight.shape)
    wide = heads.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    heads.copy_((wide * scale).to(heads.dtype) * weight)


def load_llama(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Llama:
    """Read a Llama model's weights; see `registry.load_model`."""
    config = checkpoint.config
    ops = select_ops(
        device,
        dtype,
        config.head_dim,
        config.num_heads // config.num_kv_heads,
        hidden=config.hidden_size,
        block_tokens=block_tokens,
    )
    reader = WeightReader(checkpoint, device, dtype, ops)
    embedding = reader.parameter("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    head = embedding
    if not config.tie_word_embeddings:
        head = reader.parameter("lm_head.weight", config.vocab_size, config.hidden_size)
    table = cos_sin_table(config, checkpoint.rope_factors(), config.max_position)
    weights = LlamaWeights(
        embedding=embedding,
        layers=[_layer(reader, config, index) for index in range(config.num_layers)],
        final_norm=reader.parameter("model.norm.weight", config.hidden_size),
        head=ops.linear(head),
        cos_sin=table.to(device),
    )
    geometry = KVGeometry(
        config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, dtype
    )
    return Llama(config, weights, ops, geometry)


def _layer(reader: WeightReader, config: ModelConfig, index: int) -> LlamaLayer:
    prefix = f"model.layers.{index}."
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = [("self_attn.q_proj", queries), ("self_attn.k_proj", keys)]
    attention.append(("self_attn.v_proj", keys))
    gates = [("mlp.gate_proj", wide), ("mlp.up_proj", wide)]
    bias, mlp_bias = config.attention_bias, config.mlp_bias
    head_norm = None
    if config.head_norm:
        norms = [
            reader.parameter(f"{prefix}self_attn.{name}_norm.weight", config.head_dim).expand(
                heads, config.head_dim
            )
            for name, heads in (("q", config.num_heads), ("k", config.num_kv_heads))
        ]
        head_norm = torch.cat(norms)
    return LlamaLayer(
        input_norm=reader.parameter(prefix + "input_layernorm.weight", hidden),
        qkv=reader.fused(prefix, attention, hidden, bias=bias),
        output=reader.fused(
            prefix, [("self_attn.o_proj", hidden)], queries, bias=config.output_bias
        ),
        post_attention_norm=reader.parameter(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=reader.fused(prefix, gates, hidden, bias=mlp_bias),
        down=reader.fused(prefix, [("mlp.down_proj", hidden)], wide, bias=mlp_bias),
        head_norm=head_norm,
    )
