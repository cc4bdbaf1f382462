"""The check of the architecture, before anything else of a checkpoint is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard_runtime.checkpoint_files.architectures import SUPPORTED, check_architecture
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.registry import ARCHITECTURES


def test_every_supported_architecture_has_a_loader() -> None:
    """What the check lets pass can be loaded, and the other way round."""
    assert set(ARCHITECTURES) == SUPPORTED


def test_a_gguf_file_of_another_architecture_is_refused(write_gguf: Callable[..., Path]) -> None:
    """The sentence names the file, its architecture and those that can run."""
    with pytest.raises(
        CheckpointError, match=r"tiny.gguf has the .* 'falcon'.*: llama, qwen2, qwen3$"
    ):
        check_architecture(write_gguf(architecture="falcon"))


@pytest.mark.parametrize("config", [{"architectures": ["LlamaForCausalLM"]}, {}])
def test_other_directories_pass(tmp_path: Path, config: dict[str, object]) -> None:
    """A known architecture passes, and so does what names none: the loader tells more."""
    (tmp_path / "config.json").write_text(json.dumps(config))

    check_architecture(tmp_path)


def test_a_directory_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """The sentence gives the class name."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["T5"]}))

    with pytest.raises(CheckpointError, match="'T5'"):
        check_architecture(tmp_path)
