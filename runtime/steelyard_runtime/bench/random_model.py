"""Models with random weights of exact shapes: speed does not depend on what the numbers are."""

from collections.abc import Callable

import torch
from torch import Tensor

from steelyard_kernels.dispatch import select_ops
from steelyard_kernels.interface import Experts, ExpertWeights, Linear, Mxfp4, Ops
from steelyard_kernels.llama_weights import LlamaLayer, LlamaWeights
from steelyard_runtime.checkpoint_files.model_config import Mixture, ModelConfig, RopeScaling
from steelyard_runtime.models.batch import KVGeometry, Model
from steelyard_runtime.models.gpt_oss import GptOss, GptOssLayer, GptOssWeights, ops_for
from steelyard_runtime.models.llama import Llama
from steelyard_runtime.models.rope import cos_sin_table

# Small enough that activations stay finite through any number of layers.
DEVIATION = 0.02

LLAMA_8B = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    max_position=131072,
    rope_theta=500000.0,
    rope_scaling=RopeScaling("llama3", 8.0),
    tie_word_embeddings=False,
    attention_bias=False,
    mlp_bias=False,
    eos_token_ids=frozenset(),
)

GPT_OSS_20B = ModelConfig(
    architecture="GptOssForCausalLM",
    vocab_size=201088,
    hidden_size=2880,
    intermediate_size=2880,
    num_layers=24,
    num_heads=64,
    num_kv_heads=8,
    head_dim=64,
    rms_norm_eps=1e-5,
    max_position=131072,
    rope_theta=150000.0,
    rope_scaling=RopeScaling("yarn", 32.0, original_max_position=4096, attention_factor=1.3466),
    tie_word_embeddings=False,
    attention_bias=True,
    mlp_bias=False,
    eos_token_ids=frozenset(),
    mixture=Mixture(experts=32, top=4, alpha=1.702, limit=7.0),
    windows=(128, 0) * 12,
)


def random_llama(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Llama:
    """Return a Llama of this shape, its weights made on the device."""
    group = config.num_heads // config.num_kv_heads
    ops = select_ops(
        device,
        dtype,
        config.head_dim,
        group,
        hidden=config.hidden_size,
        block_tokens=block_tokens,
    )
    make = _Maker(ops, device, dtype)
    hidden, wide = config.hidden_size, config.intermediate_size
    queries = config.num_heads * config.head_dim
    projected = queries + 2 * config.num_kv_heads * config.head_dim
    layers = [
        LlamaLayer(
            input_norm=make.ones(hidden),
            qkv=make.linear(projected, hidden),
            output=make.linear(hidden, queries),
            post_attention_norm=make.ones(hidden),
            gate_up=make.linear(2 * wide, hidden),
            down=make.linear(hidden, wide),
        )
        for _ in range(config.num_layers)
    ]
    weights = LlamaWeights(
        embedding=make.normal(config.vocab_size, hidden),
        layers=layers,
        final_norm=make.ones(hidden),
        head=make.linear(config.vocab_size, hidden),
        cos_sin=cos_sin_table(config, None, config.max_position).to(device),
    )
    geometry = KVGeometry(
        config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, dtype
    )
    return Llama(config, weights, ops, geometry)


def random_gpt_oss(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> GptOss:
    """Return a gpt-oss of this shape, its weights made on the device."""
    ops = ops_for(config, device, dtype, block_tokens)
    make = _Maker(ops, device, dtype)
    hidden, queries = config.hidden_size, config.num_heads * config.head_dim
    projected = queries + 2 * config.num_kv_heads * config.head_dim
    mixture = config.mixture
    assert mixture is not None
    layers = [
        GptOssLayer(
            input_norm=make.ones(hidden),
            qkv=make.linear(projected, hidden, bias=True),
            sinks=torch.zeros(config.num_heads, device=device),
            window=window,
            output=make.linear(hidden, queries, bias=True),
            post_attention_norm=make.ones(hidden),
            router=make.linear(mixture.experts, hidden, bias=True),
            experts=make.experts(mixture, hidden, config.intermediate_size),
        )
        for window in config.windows
    ]
    weights = GptOssWeights(
        embedding=make.normal(config.vocab_size, hidden),
        layers=layers,
        final_norm=make.ones(hidden),
        head=make.linear(config.vocab_size, hidden),
        cos_sin=cos_sin_table(config, None, config.max_position).to(device),
    )
    geometry = KVGeometry(
        config.num_layers, config.num_kv_heads, config.head_dim, block_tokens, dtype
    )
    return GptOss(config, weights, ops, geometry)


class _Maker:
    def __init__(self, ops: Ops, device: torch.device, dtype: torch.dtype) -> None:
        self._ops = ops
        self._device = device
        self._dtype = dtype

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device).normal_(0, DEVIATION)

    def ones(self, size: int) -> Tensor:
        return torch.ones(size, dtype=self._dtype, device=self._device)

    def linear(self, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        return self._ops.linear(
            self.normal(outputs, inputs), self.normal(outputs) if bias else None
        )

    def experts(self, mixture: Mixture, hidden: int, inner: int) -> Experts:
        return self._ops.experts(
            ExpertWeights(
                self._mxfp4(mixture.experts, 2 * inner, hidden),
                self.normal(mixture.experts, 2 * inner),
                self._mxfp4(mixture.experts, hidden, inner),
                self.normal(mixture.experts, hidden),
                mixture.top,
                mixture.alpha,
                mixture.limit,
            )
        )

    def _mxfp4(self, experts: int, rows: int, columns: int) -> Mxfp4:
        shape = (experts, rows, columns // 32)
        return Mxfp4(
            torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, device=self._device),
            # 2^-7: as large as the other weights.
            torch.full(shape, 120, dtype=torch.uint8, device=self._device),
        )


Make = Callable[[torch.device, torch.dtype, int], Model]

SHAPES: dict[str, Make] = {
    "gpt-oss-20b": lambda device, dtype, block: random_gpt_oss(GPT_OSS_20B, device, dtype, block),
    "llama-3.1-8b": lambda device, dtype, block: random_llama(LLAMA_8B, device, dtype, block),
}
