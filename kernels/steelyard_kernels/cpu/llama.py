"""A whole Llama forward pass as one call into the C++ kernels."""

import ctypes

import torch
from torch import Tensor

from steelyard_kernels.cpu.library import Layer, Step
from steelyard_kernels.cpu.ops import PackedLinear
from steelyard_kernels.interface import AttentionBatch, Linear
from steelyard_kernels.llama_weights import LlamaLayer, LlamaShape, LlamaWeights


class FusedLlama:
    """Holds the pointers; one call at a time."""

    def __init__(self, library: ctypes.CDLL, shape: LlamaShape, weights: LlamaWeights) -> None:
        self.library = library
        self.shape = shape
        self._weights = weights  # what the pointers point to
        self._layers = (Layer * len(weights.layers))(*map(_pointers, weights.layers))
        self._step = Step(
            layers=len(weights.layers),
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            intermediate=shape.intermediate,
            vocab=shape.vocab,
            embedding=weights.embedding.data_ptr(),
            final_norm=weights.final_norm.data_ptr(),
            head=_packed(weights.head).packed.data_ptr(),
            cos_sin=weights.cos_sin.data_ptr(),
            eps=shape.eps,
            scale=shape.head_dim**-0.5,
        )
        self._scratch = torch.empty(0)

    def __call__(
        self,
        token_ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        *,
        attention: AttentionBatch,
        logit_rows: Tensor,
        kv_pool: Tensor,
    ) -> Tensor:
        """Write the batch's KV into `kv_pool` and return logits (R, vocab)."""
        shape, step = self.shape, self._step
        if not kv_pool.is_contiguous() or kv_pool.dtype != torch.float32:
            raise ValueError("the CPU kernels need a contiguous float32 KV pool")
        tables = attention.block_tables
        # Held until the call is over: the step has only pointers.
        inputs = {
            "token_ids": token_ids,
            "positions": positions,
            "slots": slots,
            "query_starts": attention.query_starts,
            "context_lens": attention.context_lens,
            "block_tables": tables,
            "logit_rows": logit_rows,
        }
        for name, tensor in inputs.items():
            if tensor.dtype != torch.int64 or not tensor.is_contiguous():
                raise ValueError(f"{name} must be a contiguous int64 tensor")
            setattr(step, name, tensor.data_ptr())
        logits = torch.empty((len(logit_rows), shape.vocab))
        step.tokens, step.rows = len(token_ids), len(logit_rows)
        step.sequences, step.table_width = tables.shape
        step.kv_pool, step.logits = kv_pool.data_ptr(), logits.data_ptr()
        step.block_tokens = kv_pool.shape[4]
        step.block_stride, step.layer_stride, step.value_stride = kv_pool.stride()[:3]
        self._place_scratch(max(step.tokens, step.rows))
        self.library.steelyard_llama(step, self._layers, torch.get_num_threads())
        return logits

    def _place_scratch(self, tokens: int) -> None:
        shape, step = self.shape, self._step
        queries = shape.heads * shape.head_dim
        widths = {
            "residual": shape.hidden,
            "x": shape.hidden,
            "y": shape.hidden,
            "attention": queries,
            "wide": max(queries + 2 * shape.kv_heads * shape.head_dim, 2 * shape.intermediate),
            "activation": max(queries, shape.intermediate),
        }
        needed = tokens * sum(widths.values())
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        at = self._scratch.data_ptr()
        for name, width in widths.items():
            setattr(step, name, at)
            at += tokens * width * 4


def _pointers(layer: LlamaLayer) -> Layer:
    norms = {
        "input_norm": layer.input_norm.data_ptr(),
        "post_attention_norm": layer.post_attention_norm.data_ptr(),
    }
    linears = {
        "qkv": _packed(layer.qkv),
        "output": _packed(layer.output),
        "gate_up": _packed(layer.gate_up),
        "down": _packed(layer.down),
    }
    weights = {name: linear.packed.data_ptr() for name, linear in linears.items()}
    biases = {
        f"{name}_bias": linear.bias.data_ptr()
        for name, linear in linears.items()
        if linear.bias is not None
    }
    return Layer(**norms, **weights, **biases)


def _packed(linear: Linear) -> PackedLinear:
    if not isinstance(linear, PackedLinear):
        raise TypeError("the fused Llama takes weights packed by CpuOps.linear")
    return linear
