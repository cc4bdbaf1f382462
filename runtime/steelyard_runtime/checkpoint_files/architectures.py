"""Which model architectures can run, and the check that comes before everything else is read.

A file of another architecture usually has another tokenizer and other fields too; the sentence
that helps is the one about the architecture.
"""

from pathlib import Path

from steelyard_runtime.checkpoint_files.gguf_header import read_gguf_header
from steelyard_runtime.checkpoint_files.reading import read_json, shown
from steelyard_runtime.errors import CheckpointError

# Hugging Face's class names; `models/registry.py` has a loader for each.
LLAMA, QWEN2, QWEN3 = "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
GPT_OSS = "GptOssForCausalLM"
SUPPORTED = frozenset({LLAMA, QWEN2, QWEN3, GPT_OSS})
# GGUF's architecture names in Hugging Face's terms.
GGUF_ARCHITECTURES = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3}


def check_architecture(path: Path) -> None:
    """Refuse a checkpoint that names an architecture which cannot run; one without a name passes.

    Args:
        path: a GGUF file or a Hugging Face directory.

    Raises:
        CheckpointError: the architecture is not supported, or the file is damaged.
    """
    if path.is_dir():
        config = path / "config.json"
        given = read_json(config).get("architectures") if config.exists() else None
        name = given[0] if isinstance(given, list) and given else None
        allowed = sorted(SUPPORTED)
    else:
        name = read_gguf_header(path).metadata.get("general.architecture")
        allowed = sorted(GGUF_ARCHITECTURES)
    if name is not None and name not in allowed:
        raise CheckpointError(
            f"{path} has the architecture '{shown(name)}'; must be one of: {', '.join(allowed)}"
        )
