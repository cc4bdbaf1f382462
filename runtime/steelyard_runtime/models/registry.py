"""Which model runs which architecture."""

from collections.abc import Callable

import torch

from steelyard_runtime.checkpoint_files.architectures import GPT_OSS, LLAMA, QWEN2, QWEN3
from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.batch import Model
from steelyard_runtime.models.checkpoint import Checkpoint

Loader = Callable[[Checkpoint, torch.device, torch.dtype, int], Model]


def _llama(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Model:
    from steelyard_runtime.models.llama import load_llama

    return load_llama(checkpoint, device, dtype, block_tokens)


def _gpt_oss(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Model:
    from steelyard_runtime.models.gpt_oss import load_gpt_oss

    return load_gpt_oss(checkpoint, device, dtype, block_tokens)


ARCHITECTURES: dict[str, Loader] = {
    LLAMA: _llama,
    QWEN2: _llama,
    QWEN3: _llama,
    GPT_OSS: _gpt_oss,
}


def load_model(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, block_tokens: int
) -> Model:
    """Build the model of `checkpoint` on `device`.

    Args:
        checkpoint: where configuration and weights come from.
        device: where the model runs.
        dtype: of weights, activations and KV cache.
        block_tokens: tokens in one KV block.

    Raises:
        CheckpointError: the architecture is not supported, or weights are missing or misshapen.
    """
    architecture = checkpoint.config.architecture
    loader = ARCHITECTURES.get(architecture)
    if loader is None:
        raise CheckpointError(
            f"{checkpoint.path} has the architecture '{architecture}'; "
            f"must be one of: {', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        with torch.inference_mode():
            return loader(checkpoint, device, dtype, block_tokens)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(checkpoint, error) from None
    except RuntimeError as error:
        # What torch says where a CPU's memory ends has no type of its own.
        if "allocate memory" not in str(error):
            raise
        raise _too_large(checkpoint, error) from None


def _too_large(checkpoint: Checkpoint, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path} does not fit into memory: {shown(str(error))}")
