"""What a checkpoint says about its model, whichever format it has. No torch.

Names follow Hugging Face's config.json. Which architectures can run is `architectures.py`'s.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from steelyard_runtime.checkpoint_files.architectures import (
    GGUF_ARCHITECTURES,
    GPT_OSS,
    QWEN2,
    QWEN3,
)
from steelyard_runtime.checkpoint_files.fields import Fields
from steelyard_runtime.checkpoint_files.gguf_header import MAGIC, GGUFHeader, read_gguf_header
from steelyard_runtime.checkpoint_files.reading import read_json, shown
from steelyard_runtime.errors import CheckpointError

LAYERS = 4096  # far beyond any model
POSITIONS = 2**22  # RoPE's table has a row for each: 2 GiB for heads of 128


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How RoPE's frequencies are stretched; `linear` uses only `factor`."""

    kind: str  # linear | llama3 | yarn
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    # yarn
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0  # of cosines and sines


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixture of experts in place of each layer's MLP; weights in MXFP4."""

    experts: int
    top: int  # experts of a token
    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model."""

    architecture: str  # Hugging Face's class name
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    attention_bias: bool  # of queries, keys and values
    mlp_bias: bool
    eos_token_ids: frozenset[int]
    mixture: Mixture | None = None
    windows: tuple[int, ...] = ()  # by layer: how many tokens a query sees; 0: all; (): all layers
    output_bias: bool = False  # of attention's output
    head_norm: bool = False  # each head of queries and keys is normalised before RoPE


def is_gguf(path: Path) -> bool:
    """Return whether `path` is a file that starts like GGUF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read_model_config(path: Path) -> ModelConfig:
    """Return the configuration of the checkpoint at `path`.

    Args:
        path: a GGUF file or a Hugging Face directory.

    Raises:
        CheckpointError: neither of these, damaged, or a field is missing or out of range.
    """
    if path.is_dir():
        return config_from_directory(path)
    if path.suffix == ".gguf" or is_gguf(path):
        return config_from_gguf(read_gguf_header(path))
    if not path.exists():
        raise CheckpointError(f"there is no file or directory at {path}")
    raise CheckpointError(
        f"{path} is not a checkpoint; it must be a GGUF file or a Hugging Face directory"
    )


def config_from_gguf(header: GGUFHeader) -> ModelConfig:
    """Read a GGUF file's metadata."""
    fields = Fields(str(header.path), header.metadata)
    name = fields.text("general.architecture")
    architecture = GGUF_ARCHITECTURES.get(name, name)
    heads = fields.positive(f"{name}.attention.head_count")
    hidden_size = fields.positive(f"{name}.embedding_length")
    head_dim = fields.positive(f"{name}.attention.key_length", hidden_size // heads)
    embedding = header.tensors.get("token_embd.weight")
    vocab_size = fields.positive(f"{name}.vocab_size", embedding.shape[0] if embedding else None)
    kind = fields.text(f"{name}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise CheckpointError(
            f"{header.path}: {name}.rope.scaling.type is '{shown(kind)}'; must be one of: none, "
            "linear"
        )
    factor = fields.number(f"{name}.rope.scaling.factor", 1.0)
    rotated = fields.positive(f"{name}.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(
            f"{header.path}: {name}.rope.dimension_count is {rotated}; "
            f"must be the head's {head_dim}"
        )
    ends = [
        fields.token_ids(f"tokenizer.ggml.{end}_token_id", vocab_size) for end in ("eos", "eot")
    ]
    config = ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.positive(f"{name}.feed_forward_length"),
        num_layers=fields.positive(f"{name}.block_count", largest=LAYERS),
        num_heads=heads,
        num_kv_heads=fields.positive(f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=fields.number(f"{name}.attention.layer_norm_rms_epsilon"),
        max_position=fields.positive(f"{name}.context_length", largest=POSITIONS),
        rope_theta=fields.number(f"{name}.rope.freq_base", 10_000.0),
        rope_scaling=RopeScaling("linear", factor) if kind == "linear" else None,
        tie_word_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in header.tensors,
        output_bias="blk.0.attn_output.bias" in header.tensors,
        head_norm=architecture == QWEN3,
        eos_token_ids=frozenset().union(*ends),
    )
    return _checked(config, str(header.path))


def config_from_directory(directory: Path) -> ModelConfig:
    """Read config.json, and the end-of-sequence ids of generation_config.json where it exists."""
    path = directory / "config.json"
    raw = read_json(path)
    fields = Fields(str(path), raw)
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise CheckpointError(f"{path}: 'architectures' must be a list with one class name")
    name = Fields(str(path), {"architectures": architectures[0]}).text("architectures")
    mixed = name == GPT_OSS
    if name in (QWEN2, QWEN3) and fields.flag("use_sliding_window", False):
        raise CheckpointError(f"{path}: use_sliding_window is true; must be false")
    # Qwen 2 has a bias at queries, keys and values alone, and config.json does not say so.
    bias = fields.flag("attention_bias", mixed)
    _check_quantization(path, fields, mixed=mixed)
    if fields.text("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{path}: hidden_act is '{shown(raw['hidden_act'])}'; must be 'silu'")
    heads = fields.positive("num_attention_heads")
    hidden_size = fields.positive("hidden_size")
    max_position = fields.positive("max_position_embeddings", 2048, largest=POSITIONS)
    theta, scaling = _hf_rope(path, fields, max_position)
    vocab_size = fields.positive("vocab_size")
    config = ModelConfig(
        architecture=name,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.positive("intermediate_size"),
        num_layers=fields.positive("num_hidden_layers", largest=LAYERS),
        num_heads=heads,
        num_kv_heads=fields.positive("num_key_value_heads", heads),
        head_dim=fields.positive("head_dim", hidden_size // heads),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        max_position=max_position,
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        attention_bias=bias or name == QWEN2,
        mlp_bias=fields.flag("mlp_bias", False),
        eos_token_ids=_hf_eos(directory, fields, vocab_size),
        mixture=_mixture(fields) if mixed else None,
        windows=_windows(fields) if mixed else (),
        output_bias=bias and name != QWEN2,
        head_norm=name == QWEN3,
    )
    return _checked(config, str(path))


def _check_quantization(path: Path, fields: Fields, *, mixed: bool) -> None:
    given = fields.mapping("quantization_config")
    method = given.get("quant_method", "unknown") if given else None
    if mixed and method != "mxfp4":
        raise CheckpointError(
            f"{path}: quantization_config must have the method 'mxfp4', as gpt-oss is released; "
            f"got '{shown(method)}'"
        )
    if method and not mixed:
        raise CheckpointError(
            f"{path}: quantization_config has the method '{shown(method)}', which is not "
            "supported; safetensors must hold float32, float16 or bfloat16 weights"
        )


def _mixture(fields: Fields) -> Mixture:
    experts = fields.positive("num_local_experts")
    top = fields.positive("num_experts_per_tok", 4)
    if top > experts:
        raise CheckpointError(
            f"{fields.where}: 'num_experts_per_tok' must be at most the {experts} experts, "
            f"got {top}"
        )
    alpha, limit = fields.number("swiglu_alpha", 1.702), fields.number("swiglu_limit", 7.0)
    return Mixture(experts, top, alpha, limit)


def _windows(fields: Fields) -> tuple[int, ...]:
    layers = fields.positive("num_hidden_layers", largest=LAYERS)
    window = fields.positive("sliding_window", 128)
    allowed = {"sliding_attention": window, "full_attention": 0}
    kinds = fields.metadata.get("layer_types")
    if kinds is None:
        kinds = [list(allowed)[index % 2] for index in range(layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(isinstance(kind, str) and kind in allowed for kind in kinds)
    ):
        raise CheckpointError(
            f"{fields.where}: 'layer_types' must have one of {', '.join(allowed)} for each of "
            f"{layers} layers, got {shown(kinds)}"
        )
    return tuple(allowed[kind] for kind in kinds)


def _hf_rope(path: Path, config: Fields, max_position: int) -> tuple[float, RopeScaling | None]:
    # transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
    merged = {**config.mapping("rope_scaling"), **config.mapping("rope_parameters")}
    fields = Fields(f"{path}: RoPE", merged)
    theta = fields.number("rope_theta", config.number("rope_theta", 10_000.0))
    if theta <= 1.0:
        raise CheckpointError(f"{path}: 'rope_theta' must be above 1, got {theta}")
    kind = fields.text("rope_type", fields.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", fields.number("factor"))
    if kind == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if low >= high:
            raise CheckpointError(
                f"{path}: RoPE: 'low_freq_factor' must be below 'high_freq_factor', got {low} and "
                f"{high}"
            )
        return theta, RopeScaling(
            "llama3",
            fields.number("factor"),
            low,
            high,
            fields.positive("original_max_position_embeddings", max_position),
        )
    if kind == "yarn":
        factor = fields.number("factor")
        return theta, RopeScaling(
            "yarn",
            factor,
            original_max_position=fields.positive("original_max_position_embeddings", max_position),
            beta_fast=fields.number("beta_fast", 32.0),
            beta_slow=fields.number("beta_slow", 1.0),
            truncate=fields.flag("truncate", True),
            attention_factor=fields.number("attention_factor", 0.1 * math.log(factor) + 1.0),
        )
    raise CheckpointError(
        f"{path}: rope_type is '{shown(kind)}'; must be one of: default, linear, llama3, yarn"
    )


def _hf_eos(directory: Path, fields: Fields, vocab_size: int) -> frozenset[int]:
    generation = directory / "generation_config.json"
    if generation.exists():
        raw = read_json(generation)
        if "eos_token_id" in raw:
            return Fields(str(generation), raw).token_ids("eos_token_id", vocab_size)
    return fields.token_ids("eos_token_id", vocab_size)


def _checked(config: ModelConfig, where: str) -> ModelConfig:
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{where}: {config.num_heads} attention heads must be a multiple of the "
            f"{config.num_kv_heads} key-value heads"
        )
    if config.head_dim < 2 or config.head_dim % 2:
        raise CheckpointError(f"{where}: the head dimension must be even, got {config.head_dim}")
    return config
