"""Paged attention in plain torch: gather each sequence's cache, then dense attention."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from steelyard_kernels.interface import AttentionBatch


def paged_attention(
    query: Tensor,
    kv_layer: Tensor,
    batch: AttentionBatch,
    scale: float,
    *,
    sinks: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """Attend over the cache; `query` is (T, heads, head_dim), the result (T, heads * head_dim)."""
    attend = _Attend(scale, sinks, window)
    if batch.max_query_len == 1:
        return _decode(query, kv_layer, batch, attend)
    starts, lengths = batch.query_starts.tolist(), batch.context_lens.tolist()
    rows = [
        _one(query[starts[s] : starts[s + 1]], kv_layer, batch.block_tables[s], lengths[s], attend)
        for s in range(len(lengths))
    ]
    return torch.cat(rows)


class _Attend:
    """Dense attention with a mask, and with sinks where there are any."""

    def __init__(self, scale: float, sinks: Tensor | None, window: int) -> None:
        self.scale = scale
        self.sinks = sinks
        self.window = window

    def sees(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """Return which keys each query sees; the shapes broadcast."""
        visible = key_position <= query_position
        if self.window:
            visible &= key_position > query_position - self.window
        return visible

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Attend: (..., heads, q, d) over (..., heads, k, d)."""
        if self.sinks is None:
            return F.scaled_dot_product_attention(
                query, keys, values, attn_mask=visible, scale=self.scale
            )
        scores = (query @ keys.transpose(-1, -2) * self.scale).float()
        scores = scores.masked_fill(~visible, -torch.inf)
        # One for each head: (heads, 1) over a head's queries, or (kv_heads, group) over groups.
        extra = self.sinks.float().view(query.shape[-3], -1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat((scores, extra), dim=-1).softmax(dim=-1)[..., :-1]
        return weights.to(values.dtype) @ values


def _one(query: Tensor, kv_layer: Tensor, table: Tensor, context: int, attend: _Attend) -> Tensor:
    """Attend for one sequence with any number of query tokens."""
    count, heads, head_dim = query.shape
    kv_heads, block_tokens = kv_layer.shape[2], kv_layer.shape[3]
    blocks = -(-context // block_tokens)
    cache = kv_layer[table[:blocks]]  # (blocks, 2, kv_heads, block_tokens, head_dim)
    cache = cache.permute(1, 2, 0, 3, 4).reshape(2, kv_heads, -1, head_dim)[:, :, :context]
    cache = cache.to(query.dtype).repeat_interleave(heads // kv_heads, dim=1)
    key_position = torch.arange(context, device=query.device)
    query_position = torch.arange(context - count, context, device=query.device)
    visible = attend.sees(query_position[:, None], key_position)
    out = attend(query.transpose(0, 1), cache[0], cache[1], visible)
    return out.transpose(0, 1).reshape(count, heads * head_dim)


def _decode(query: Tensor, kv_layer: Tensor, batch: AttentionBatch, attend: _Attend) -> Tensor:
    """Attend with one query token a sequence, all sequences at once and nothing read back."""
    sequences, heads, head_dim = query.shape
    kv_heads, block_tokens = kv_layer.shape[2], kv_layer.shape[3]
    blocks = -(-batch.max_context_len // block_tokens)
    cache = kv_layer[batch.block_tables[:, :blocks]]
    # (S, blocks, 2, kv_heads, block_tokens, head_dim) -> (2, S, kv_heads, tokens, head_dim)
    cache = cache.permute(2, 0, 3, 1, 4, 5).reshape(2, sequences, kv_heads, -1, head_dim)
    cache = cache.to(query.dtype)
    key_position = torch.arange(cache.shape[3], device=query.device)
    lengths = batch.context_lens[:, None]
    # A reused block may hold anything after the sequence's end, and 0 * NaN is NaN.
    behind = key_position >= lengths
    cache = cache.masked_fill(behind[None, :, None, :, None], 0.0)
    visible = attend.sees(lengths - 1, key_position)
    # The heads of a group are its queries.
    rows = query.view(sequences, kv_heads, heads // kv_heads, head_dim)
    out = attend(rows, cache[0], cache[1], visible[:, None, None])
    return out.reshape(sequences, heads * head_dim)
