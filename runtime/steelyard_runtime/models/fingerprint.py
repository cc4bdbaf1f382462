"""Whether two workers can read each other's KV blocks: equal fingerprints, and nothing less."""

import hashlib
import json
from dataclasses import asdict

from steelyard_runtime.checkpoint_files.model_config import ModelConfig
from steelyard_runtime.models.batch import KVGeometry

# Raised when the meaning of a block's bytes or of the side channel's messages changes.
PROTOCOL_VERSION = 1
KV_LAYOUT = "blocks,layers,2,kv_heads,block_tokens,head_dim"


def fingerprint(
    config: ModelConfig,
    geometry: KVGeometry,
    *,
    model_digest: str,
    tokenizer_digest: str,
    weight_dtype: str,
) -> str:
    """Return 64 hex digits that cover everything that the content of a KV block depends on.

    Args:
        config: the model's shape and RoPE.
        geometry: the KV blocks' shape and dtype.
        model_digest: of the weights, see `checkpoint_files.digest`.
        tokenizer_digest: of the tokenizer and the chat template in force.
        weight_dtype: in which the weights compute, for example `float32`.
    """
    rope = {
        "theta": config.rope_theta,
        "scaling": asdict(config.rope_scaling) if config.rope_scaling else None,
    }
    parts = {
        "protocol": PROTOCOL_VERSION,
        "model": model_digest,
        "tokenizer": tokenizer_digest,
        "architecture": config.architecture,
        "weight_dtype": weight_dtype,
        "kv_dtype": str(geometry.dtype).removeprefix("torch."),
        "block_tokens": geometry.block_tokens,
        "layout": KV_LAYOUT,
        "layers": geometry.layers,
        "heads": config.num_heads,
        "kv_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "rope": rope,
    }
    encoded = json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(encoded).hexdigest()
