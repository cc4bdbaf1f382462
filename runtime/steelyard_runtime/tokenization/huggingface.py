"""Reads the tokenizer of a Hugging Face checkpoint directory."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from steelyard_runtime.checkpoint_files.reading import TOKENIZER_BYTES, read_json, read_text, shown
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.tokenization.damage import refusing_damage
from steelyard_runtime.tokenization.tokenizer import Tokenizer


def load_huggingface_tokenizer(directory: Path) -> Tokenizer:
    """Return the tokenizer of a directory with `tokenizer.json`.

    The end ids are those of `generation_config.json`, else of `config.json`, and the tokenizer's
    own `eos_token`.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{directory}: has no tokenizer.json")
    text = read_text(path, TOKENIZER_BYTES)
    with refusing_damage(f"{path}: is no tokenizer of the tokenizers library"):
        backend = Backend.from_str(text)
    config = _read_object(directory / "tokenizer_config.json")
    bos, eos, pad, unk = (
        _named_token(backend, config, f"{name}_token") for name in ("bos", "eos", "pad", "unk")
    )
    generation = _read_object(directory / "generation_config.json")
    model = _read_object(directory / "config.json")
    declared = generation.get("eos_token_id", model.get("eos_token_id"))
    ends = declared if isinstance(declared, list) else [declared]
    templates = _chat_templates(directory, config)
    with refusing_damage(f"{path}: is damaged"):
        return Tokenizer(
            backend,
            bos_token_id=bos,
            eos_token_ids=tuple(dict.fromkeys(i for i in [*ends, eos] if isinstance(i, int))),
            pad_token_id=pad,
            unk_token_id=unk,
            chat_templates=templates,
        )


def _read_object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _named_token(backend: Backend, config: dict[str, Any], name: str) -> int | None:
    token = config.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    try:
        return backend.token_to_id(token) if isinstance(token, str) else None
    except UnicodeEncodeError:  # half a letter
        return None


def _chat_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name; a file wins over the configuration, as in transformers."""
    templates: dict[str, str] = {}
    declared = config.get("chat_template")
    if isinstance(declared, str):
        templates["default"] = declared
    elif declared is not None:
        named = declared if isinstance(declared, list) else [declared]
        for item in named:
            name, text = (
                (item.get("name"), item.get("template")) if isinstance(item, dict) else (None, None)
            )
            if not isinstance(name, str) or not isinstance(text, str):
                raise CheckpointError(
                    f"{directory}/tokenizer_config.json: chat_template must be a string, or a list "
                    f"of objects with name and template, got {shown(item)}"
                )
            templates[name] = text
    single = directory / "chat_template.jinja"
    files = [single] if single.is_file() else []
    for file in [*files, *sorted((directory / "additional_chat_templates").glob("*.jinja"))]:
        name = "default" if file == single else file.stem
        templates[name] = read_text(file)
    return templates
