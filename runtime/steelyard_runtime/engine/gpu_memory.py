"""How much of a GPU's memory the KV pool may take: measured, not guessed."""

import torch

from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.models.batch import Model

# Recorded graphs, library workspaces and fragments, as seen with models of 1 to 20 GB.
RESERVE_BYTES = 768 * 1024**2
# Logits in float32 and what sampling makes of them.
COPIES_OF_LOGITS = 4


def free_for_kv(
    model: Model, device: torch.device, utilization: float, max_tokens: int, max_sequences: int
) -> int:
    """Return the bytes that a pool may have, after running the largest step once.

    Args:
        model: on the device.
        device: a CUDA device.
        utilization: share of the device's memory that this process may use, 0 to 1.
        max_tokens: tokens of the largest step.
        max_sequences: rows of logits of the largest step.

    Raises:
        ConfigError: nothing is left.
    """
    torch.cuda.reset_peak_memory_stats(device)
    ModelRunner(model, KVPool(model.kv_geometry, 1, device), device).warm_up(max_tokens)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    # What others and the CUDA context hold is not ours to give.
    outside = total - free - torch.cuda.memory_reserved(device)
    sampling = COPIES_OF_LOGITS * 4 * max_sequences * model.vocab_size
    left = int(total * utilization) - outside - peak - sampling - RESERVE_BYTES
    if left <= 0:
        gigabytes = total / 1024**3
        raise ConfigError(
            f"--gpu-memory-utilization {utilization} of {gigabytes:.1f} GiB leaves no memory for "
            "the KV cache beside the weights and the largest step; raise it, or lower "
            "--max-num-batched-tokens"
        )
    return left
