"""Paged attention in plain torch: gather each sequence's cache, then dense attention."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from steelyard_kernels.interface import AttentionBatch


def paged_attention(query: Tensor, kv_layer: Tensor, batch: AttentionBatch, scale: float) -> Tensor:
    """Attend over the cache; `query` is (T, heads, head_dim), the result (T, heads * head_dim)."""
    if batch.max_query_len == 1:
        return _decode(query, kv_layer, batch, scale)
    starts, lengths = batch.query_starts.tolist(), batch.context_lens.tolist()
    rows = [
        _one(query[starts[s] : starts[s + 1]], kv_layer, batch.block_tables[s], lengths[s], scale)
        for s in range(len(lengths))
    ]
    return torch.cat(rows)


def _one(query: Tensor, kv_layer: Tensor, table: Tensor, context: int, scale: float) -> Tensor:
    """Attend for one sequence with any number of query tokens."""
    count, heads, head_dim = query.shape
    kv_heads, block_tokens = kv_layer.shape[2], kv_layer.shape[3]
    blocks = -(-context // block_tokens)
    cache = kv_layer[table[:blocks]]  # (blocks, 2, kv_heads, block_tokens, head_dim)
    cache = cache.permute(1, 2, 0, 3, 4).reshape(2, kv_heads, -1, head_dim)[:, :, :context]
    cache = cache.to(query.dtype).repeat_interleave(heads // kv_heads, dim=1)
    key_position = torch.arange(context, device=query.device)
    query_position = torch.arange(context - count, context, device=query.device)
    visible = key_position <= query_position[:, None]
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1), cache[0], cache[1], attn_mask=visible, scale=scale
    )
    return out.transpose(0, 1).reshape(count, heads * head_dim)


def _decode(query: Tensor, kv_layer: Tensor, batch: AttentionBatch, scale: float) -> Tensor:
    """Attend with one query token a sequence, all sequences at once and nothing read back."""
    sequences, heads, head_dim = query.shape
    kv_heads, block_tokens = kv_layer.shape[2], kv_layer.shape[3]
    blocks = -(-batch.max_context_len // block_tokens)
    cache = kv_layer[batch.block_tables[:, :blocks]]
    # (S, blocks, 2, kv_heads, block_tokens, head_dim) -> (2, S, kv_heads, tokens, head_dim)
    cache = cache.permute(2, 0, 3, 1, 4, 5).reshape(2, sequences, kv_heads, -1, head_dim)
    cache = cache.to(query.dtype)
    key_position = torch.arange(cache.shape[3], device=query.device)
    visible = key_position < batch.context_lens[:, None]
    # A reused block may hold anything after the sequence's end, and 0 * NaN is NaN.
    cache = cache.masked_fill(~visible[None, :, None, :, None], 0.0)
    out = F.scaled_dot_product_attention(
        query.view(sequences, kv_heads, heads // kv_heads, head_dim),
        cache[0],
        cache[1],
        attn_mask=visible[:, None, None],
        scale=scale,
    )
    return out.reshape(sequences, heads * head_dim)
