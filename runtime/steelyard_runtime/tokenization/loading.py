"""Picks the kind of tokenizer from what the model's path is."""

from pathlib import Path

from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.tokenization.gguf_tokenizer import load_gguf_tokenizer
from steelyard_runtime.tokenization.huggingface import load_huggingface_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer


def load_tokenizer(path: Path, chat_template: str | None = None) -> Tokenizer:
    """Return the tokenizer of a checkpoint.

    Args:
        path: a GGUF file, or a Hugging Face directory.
        chat_template: a template that replaces the checkpoint's (`--chat-template`).

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of an unsupported kind.
    """
    if path.is_dir():
        tokenizer = load_huggingface_tokenizer(path)
    elif path.suffix == ".gguf" or path.is_file():
        tokenizer = load_gguf_tokenizer(path)
    else:
        raise CheckpointError(
            f"{path}: does not exist; must be a GGUF file or a directory with tokenizer.json"
        )
    if chat_template is not None:
        tokenizer.chat_templates = {"default": chat_template}
    return tokenizer
