"""Paged attention on a GPU: our kernel for one query token, torch's flash attention for more."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_kernels.cuda.launch import Splits, decode_splits
from steelyard_kernels.cuda.library import CudaLibrary
from steelyard_kernels.interface import AttentionBatch

# Rows of (sequence, kv head) that can be split at once: only few are, see `launch.decode_splits`.
COUNTERS = 1 << 16


@dataclass(frozen=True, slots=True)
class Score:
    """How queries and keys become weights."""

    scale: float
    sinks: Tensor | None = None  # (heads,) float32: one more logit a head that has no value
    window: int = 0  # how many of the last tokens a query sees; 0: all


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The sequences with several query tokens, as torch's variable-length attention takes them."""

    starts: Tensor  # (S' + 1,) int64, rows of `keys`
    query_starts: Tensor  # (S' + 1,) int32
    key_starts: Tensor  # (S' + 1,) int32
    tables: Tensor
    keys: Tensor  # (total, kv_heads, head_dim): every layer's, one after the other
    values: Tensor


class PagedAttention:
    """Attention over the paged cache in bf16; see `Ops.paged_attention`.

    Sequences with one query token come first in a batch (`AttentionBatch.single_sequences`).
    """

    def __init__(
        self,
        library: CudaLibrary,
        device: torch.device,
        choose: Callable[[int, int, int, int], Splits] = decode_splits,
    ) -> None:
        self._library = library
        self._choose = choose
        self._multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self._has_clusters = torch.cuda.get_device_capability(device) >= (9, 0)
        self._arrived = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
        self._chunks: tuple[AttentionBatch, _Chunks] | None = None

    def __call__(
        self,
        query: Tensor,
        kv_layer: Tensor,
        batch: AttentionBatch,
        score: Score,
    ) -> Tensor:
        """Return (T, heads * head_dim) of a query (T, heads, head_dim)."""
        tokens, heads, head_dim = query.shape
        out = torch.empty((tokens, heads * head_dim), dtype=query.dtype, device=query.device)
        single = batch.single_sequences
        if single:
            self._decode(query, kv_layer, batch, score, out)
        if single < len(batch.context_lens):
            self._prefill(query[single:], kv_layer, batch, score, out[single:])
        return out

    def _decode(
        self,
        query: Tensor,
        kv_layer: Tensor,
        batch: AttentionBatch,
        score: Score,
        out: Tensor,
    ) -> None:
        kv_heads, block_tokens, head_dim = kv_layer.shape[2:]
        sequences, group = batch.single_sequences, query.shape[1] // kv_heads
        splits = self._choose(sequences, kv_heads, head_dim, self._multiprocessors)
        partial = None
        if splits.count > 1 and not self._has_clusters:
            size = sequences * kv_heads * splits.count * group * (head_dim + 2)
            partial = torch.empty(size, dtype=torch.float32, device=query.device)
        self._library.launch(
            "decode_attention",
            query.data_ptr(),
            kv_layer.data_ptr(),
            kv_layer.stride(0),
            kv_layer.stride(1),
            batch.context_lens.data_ptr(),
            batch.block_tables.data_ptr(),
            batch.block_tables.stride(0),
            None if score.sinks is None else score.sinks.data_ptr(),
            out.data_ptr(),
            None if partial is None else partial.data_ptr(),
            self._arrived.data_ptr(),
            sequences,
            kv_heads,
            group,
            head_dim,
            block_tokens,
            splits.count,
            splits.min_tiles,
            score.window,
            score.scale,
        )

    def _prefill(
        self,
        query: Tensor,
        kv_layer: Tensor,
        batch: AttentionBatch,
        score: Score,
        out: Tensor,
    ) -> None:
        chunks = self._prepared(kv_layer, batch)
        kv_heads, block_tokens, head_dim = kv_layer.shape[2:]
        self._library.launch(
            "gather_kv",
            kv_layer.data_ptr(),
            kv_layer.stride(0),
            kv_layer.stride(1),
            chunks.starts.data_ptr(),
            chunks.tables.data_ptr(),
            chunks.tables.stride(0),
            chunks.keys.data_ptr(),
            chunks.values.data_ptr(),
            len(chunks.tables),
            batch.max_context_len,
            kv_heads,
            head_dim,
            block_tokens,
        )
        # What torch.nn.attention.varlen calls; its Python side changes between versions.
        result, log_sums, *_ = torch.ops.aten._flash_attention_forward(
            query,
            chunks.keys,
            chunks.values,
            chunks.query_starts,
            chunks.key_starts,
            batch.max_query_len,
            batch.max_context_len,
            0.0,
            True,
            False,
            scale=score.scale,
            **_window(score.window),
        )
        if score.sinks is not None:
            # The sink joins the denominator: exp(lse) / (exp(lse) + exp(sink)), (heads, T).
            weight = torch.sigmoid(log_sums - score.sinks[:, None])
            result = result * weight.transpose(0, 1).unsqueeze(-1).to(result.dtype)
        out.copy_(result.reshape(out.shape))

    def _prepared(self, kv_layer: Tensor, batch: AttentionBatch) -> _Chunks:
        """Return what is the same for all layers of a step; the newest batch's is kept."""
        if self._chunks is not None and self._chunks[0] is batch:
            return self._chunks[1]
        single = batch.single_sequences
        lengths = batch.context_lens[single:]
        starts = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=starts[1:])
        query_starts = (batch.query_starts[single:] - single).to(torch.int32)
        shape = (batch.chunk_context_tokens, kv_layer.shape[2], kv_layer.shape[4])
        keys = torch.empty(shape, dtype=kv_layer.dtype, device=kv_layer.device)
        chunks = _Chunks(
            starts,
            query_starts,
            starts.to(torch.int32),
            batch.block_tables[single:],
            keys,
            torch.empty_like(keys),
        )
        self._chunks = (batch, chunks)
        return chunks


def _window(tokens: int) -> dict[str, int]:
    return {"window_size_left": tokens - 1, "window_size_right": 0} if tokens else {}
