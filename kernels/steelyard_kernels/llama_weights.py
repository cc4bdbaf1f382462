"""The weights of a Llama as its implementations share them."""

from dataclasses import dataclass

from torch import Tensor

from steelyard_kernels.interface import Linear


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of the model."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """The weights of one layer."""

    input_norm: Tensor  # (hidden,)
    qkv: Linear  # hidden -> (heads + 2 * kv_heads) * head_dim
    output: Linear  # heads * head_dim -> hidden
    post_attention_norm: Tensor  # (hidden,)
    gate_up: Linear  # hidden -> 2 * intermediate
    down: Linear  # intermediate -> hidden
    head_norm: Tensor | None = None  # (heads + kv_heads, head_dim): of queries and keys, Qwen 3


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """All weights of a model."""

    embedding: Tensor  # (vocab, hidden)
    layers: list[LlamaLayer]
    final_norm: Tensor  # (hidden,)
    head: Linear  # hidden -> vocab
    cos_sin: Tensor  # (max position, head_dim) float32
