"""A GGUF file's tokenizer keys are honoured, and refused where they cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.tokenization.loading import load_tokenizer

Write = Callable[..., Path]
BOS, EOS, IM_END, USER = 257, 258, 259, 260


def test_control_and_user_tokens_are_single_ids(write_gguf: Write) -> None:
    """Text that spells a control or a user-defined token becomes its id."""
    tokenizer = load_tokenizer(write_gguf())
    assert tokenizer.encode("<s>my token</s>", add_special_tokens=False) == [BOS, USER, EOS]


def test_only_control_tokens_are_left_out_of_text(write_gguf: Write) -> None:
    """User-defined tokens are text, control tokens are not."""
    tokenizer = load_tokenizer(write_gguf())
    assert tokenizer.decode([BOS, USER, EOS]) == "my token"
    assert tokenizer.decode([BOS, USER, EOS], skip_special_tokens=False) == "<s>my token</s>"


def test_tags_of_the_answer_are_text(write_gguf: Write, letters: list[str]) -> None:
    """Tags that parsers read stay in the text, also where the file calls them control tokens."""
    tokens = [*letters, "ab", "<s>", "</s>", "<tool_call>", "<think>"]
    tokenizer = load_tokenizer(write_gguf(tokens=tokens, token_type=[1] * 257 + [3] * 4))
    ids = tokenizer.encode("<s><think><tool_call>", add_special_tokens=False)
    assert ids == [BOS, IM_END + 1, IM_END]
    assert tokenizer.decode(ids) == "<think><tool_call>"


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({}, ([], [])),
        ({"add_bos_token": True}, ([BOS], [])),
        ({"add_eos_token": True}, ([], [EOS])),
        ({"add_bos_token": True, "add_eos_token": True}, ([BOS], [EOS])),
        ({"pre": "llama-bpe"}, ([BOS], [])),
        ({"pre": "llama-bpe", "add_bos_token": False}, ([], [])),
    ],
)
def test_beginning_and_end_tokens(
    write_gguf: Write, changes: dict[str, Any], around: tuple[list[int], list[int]]
) -> None:
    """`add_bos_token` and `add_eos_token` decide; without them the family's habit does."""
    tokenizer = load_tokenizer(write_gguf(**changes))
    before, after = around
    assert tokenizer.encode("ab") == [*before, 256, *after]
    assert tokenizer.encode("ab", add_special_tokens=False) == [256]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (EOS, IM_END)),
        ({"eot_token_id": BOS}, (EOS, BOS, IM_END)),
        ({"eos_token_id": IM_END}, (IM_END,)),
        ({"eos_token_id": None}, (IM_END,)),
    ],
)
def test_end_ids(write_gguf: Write, changes: dict[str, Any], expected: tuple[int, ...]) -> None:
    """Declared ends come first, then the well-known end of a turn."""
    assert load_tokenizer(write_gguf(**changes)).eos_token_ids == expected


def test_whole_words_go_before_merges_for_llama(write_gguf: Write, letters: list[str]) -> None:
    """A piece that is a token is taken whole with `llama-bpe`, and merged with `gpt-2`."""
    changes: dict[str, Any] = {
        "tokens": [*letters, "ab", "cd"],
        "token_type": None,
        "merges": ["c d"],
        "bos_token_id": None,
        "eos_token_id": None,
    }
    whole = load_tokenizer(write_gguf(pre="llama-bpe", **changes))
    merged = load_tokenizer(write_gguf(pre="gpt-2", **changes))
    assert whole.encode("ab") == [256]
    assert merged.decode(merged.encode("ab")) == "ab"
    assert len(merged.encode("ab")) == 2


def test_chat_templates_are_read_by_name(write_gguf: Write) -> None:
    """The file's template is `default`; a template of the command line replaces all."""
    path = write_gguf()
    assert load_tokenizer(path).chat_templates == {}
    assert load_tokenizer(path, "{{ messages }}").chat_templates == {"default": "{{ messages }}"}


def test_the_digest_covers_vocabulary_and_template(write_gguf: Write) -> None:
    """Another vocabulary, end or template gives another digest, the same file the same."""
    path = write_gguf()
    digests = [
        load_tokenizer(path).digest,
        load_tokenizer(path, "{{ messages }}").digest,
        load_tokenizer(write_gguf(pre="gpt-2")).digest,
        load_tokenizer(write_gguf(token_type=[1] * 257 + [3] * 4)).digest,
        load_tokenizer(write_gguf(eos_token_id=BOS)).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert load_tokenizer(write_gguf()).digest == digests[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; must be 'gpt2'"),
        ({"model": None}, "tokenizer.ggml.model is None; must be 'gpt2'"),
        ({"pre": "viking"}, "tokenizer.ggml.pre is 'viking'; must be one of: deepseek-r1-qwen"),
        ({"tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"merges": None}, "has no tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, "tokenizer.ggml.merges has 'ab'; must be two tokens"),
        ({"merges": ["a qq"]}, "its vocabulary and merges do not fit together"),
        ({"tokens": ["a", "a"], "token_type": None, "merges": []}, "names a token twice"),
        ({"token_type": [1]}, "token_type has 1 entries; must have 261"),
        ({"eos_token_id": 9999}, "eos_token_id is 9999; must be below 261"),
        ({"bos_token_id": "x"}, "bos_token_id has the wrong type"),
        ({"tokens": [1, 2]}, "tokens has the wrong type"),
    ],
)
def test_bad_keys_are_refused_by_name(
    write_gguf: Write, changes: dict[str, Any], message: str
) -> None:
    """A key that is missing, wrong or unknown is named in one sentence."""
    with pytest.raises(CheckpointError, match=r"model\.gguf: ") as raised:
        load_tokenizer(write_gguf(**changes))
    assert message in str(raised.value)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """A missing checkpoint is one sentence with what is allowed."""
    with pytest.raises(CheckpointError, match="does not exist; must be a GGUF file or a directory"):
        load_tokenizer(tmp_path / "nothing")


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # Only a folder is shared.
)
def test_any_damage_is_a_sentence(data: st.DataObject, write_gguf: Write, tmp_path: Path) -> None:
    """A file with changed or missing bytes loads or is refused; nothing else happens."""
    damaged = bytearray(write_gguf().read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        tokenizer = load_tokenizer(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))
    else:
        assert tokenizer.decode(tokenizer.encode("ab 12")) is not None
