"""Hugging Face transformers on the same float32 weights: what right logits and ids are.

One teacher-forced forward pass over prompt and output checks both: if each output id is the
argmax at its position, the output is what transformers' greedy search makes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.model_config import ModelConfig
from steelyard_runtime.models.checkpoint import Checkpoint, open_checkpoint

# Where the oracle's own two best logits are closer, either id is right.
TIE = 1e-3


@dataclass(frozen=True, slots=True)
class GreedyCheck:
    """The first place where ids differ from the oracle's greedy choice."""

    position: int  # in the output
    given: int
    expected: int
    margin: float  # oracle logit of its own choice minus that of the given id

    @property
    def is_tie(self) -> bool:
        """Whether the oracle itself hardly prefers its choice."""
        return self.margin <= TIE


class Oracle:
    """A transformers model in float32 with two forms of question."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @classmethod
    def of_checkpoint(cls, path: Path) -> "Oracle":
        """Build transformers' Llama with the weights of a GGUF file or directory."""
        checkpoint = open_checkpoint(path)
        return cls(_build(checkpoint))

    def logits(self, token_ids: list[int]) -> Tensor:
        """Return logits (T, vocab) at every position of `token_ids`."""
        with torch.inference_mode():
            result: Tensor = self.model(torch.tensor([token_ids]), use_cache=False).logits[0]
        return result

    def first_difference(self, prompt: list[int], output: list[int]) -> GreedyCheck | None:
        """Return where `output` leaves the oracle's greedy path, or None."""
        logits = self.logits([*prompt, *output])[len(prompt) - 1 : -1]
        best = logits.argmax(-1).tolist()
        for position, (given, expected) in enumerate(zip(output, best, strict=True)):
            if given != expected:
                margin = float(logits[position, expected] - logits[position, given])
                return GreedyCheck(position, given, expected, margin)
        return None


def _build(checkpoint: Checkpoint) -> Any:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_config(checkpoint.config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            checkpoint.read_into(name, parameter)
    return model


def _config(config: ModelConfig) -> Any:
    from transformers import LlamaConfig

    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.max_position,
        rope_parameters=rope,
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        attn_implementation="sdpa",
    )
