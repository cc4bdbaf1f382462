"""Reads the tokenizer of a Hugging Face checkpoint directory."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from steelyard_runtime.errors import CheckpointError
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
    try:
        backend = Backend.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # The library raises bare Exceptions.
        raise CheckpointError(
            f"{path}: is no tokenizer of the tokenizers library: {error}"
        ) from None
    config = _read_object(directory / "tokenizer_config.json")
    bos, eos, pad, unk = (
        _named_token(backend, config, f"{name}_token") for name in ("bos", "eos", "pad", "unk")
    )
    generation = _read_object(directory / "generation_config.json")
    model = _read_object(directory / "config.json")
    declared = generation.get("eos_token_id", model.get("eos_token_id"))
    ends = declared if isinstance(declared, list) else [declared]
    return Tokenizer(
        backend,
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys(i for i in [*ends, eos] if isinstance(i, int))),
        pad_token_id=pad,
        unk_token_id=unk,
        chat_templates=_chat_templates(directory, config),
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return value


def _named_token(backend: Backend, config: dict[str, Any], name: str) -> int | None:
    token = config.get(name)
    if isinstance(token, dict):
        token = token.get("content")
    return backend.token_to_id(token) if isinstance(token, str) else None


def _chat_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name; a file wins over the configuration, as in transformers."""
    templates: dict[str, str] = {}
    declared = config.get("chat_template")
    if isinstance(declared, str):
        templates["default"] = declared
    elif isinstance(declared, list):
        try:
            templates |= {str(item["name"]): str(item["template"]) for item in declared}
        except (KeyError, TypeError):
            raise CheckpointError(
                f"{directory}/tokenizer_config.json: chat_template must be a string, or a list "
                "of objects with name and template"
            ) from None
    single = directory / "chat_template.jinja"
    files = [single] if single.is_file() else []
    for file in [*files, *sorted((directory / "additional_chat_templates").glob("*.jinja"))]:
        name = "default" if file == single else file.stem
        try:
            templates[name] = file.read_text(encoding="utf-8")
        except ValueError:
            raise CheckpointError(f"{file}: must be UTF-8") from None
    return templates
