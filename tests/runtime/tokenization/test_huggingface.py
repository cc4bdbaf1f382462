"""The tokenizer of a Hugging Face directory has the files' ids, ends and templates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.tokenization.detokenizer import Detokenizer
from steelyard_runtime.tokenization.loading import load_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer

Directory = Callable[..., Path]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Write a checkpoint directory with a SentencePiece-like tokenizer, as Llama 2 has."""

    def write(files: dict[str, Any] | None = None, decoder: Any = None) -> Path:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens += ["▁", "a", "b", "▁a", "▁ab"]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        merges = [("▁", "a"), ("▁a", "b")]
        backend = Backend(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.decoder = decoder or decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        backend.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
        backend.save(str(tmp_path / "tokenizer.json"))
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write


def test_a_text_survives_a_round_trip(directory: Directory) -> None:
    """Words, byte tokens and spaces come back."""
    tokenizer = load_tokenizer(directory())
    text = "ab a  €👍\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.backend.decode(
        tokenizer.encode(text)
    )


def test_a_saved_tokenizer_is_the_same(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    """A tokenizer written in the library's JSON comes back with the same ids and bytes."""
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer.to_json())
    tokenizer = load_tokenizer(tmp_path)
    text = "the â a<|end|><|call|>\u20ac"
    assert tokenizer.encode(text) == byte_tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert tokenizer.special_token_ids == byte_tokenizer.special_token_ids


def test_no_token_is_longer_than_promised(directory: Directory) -> None:
    """Servers refuse texts that cannot fit by the longest token's length."""
    tokenizer = load_tokenizer(directory())
    lengths = [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    assert max(lengths) <= tokenizer.longest_token_bytes


def test_a_lone_surrogate_is_a_bad_request(byte_tokenizer: Tokenizer) -> None:
    """JSON can carry half a character; it is refused in a sentence."""
    with pytest.raises(RequestError, match="lone surrogate"):
        byte_tokenizer.encode("a\ud83d")


def test_a_continued_text_keeps_its_leading_space(directory: Directory) -> None:
    """A detokeniser's text goes on after the prompt, so its first space is not dropped."""
    tokenizer = load_tokenizer(directory())
    ids = tokenizer.encode("ab €")
    detokenizer = Detokenizer(tokenizer)
    text = "".join(detokenizer.push(token_id) for token_id in ids) + detokenizer.finish()
    assert text == tokenizer.decode(ids, continues=True) == " ab €"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ()),
        ({"tokenizer_config.json": {"eos_token": "</s>"}}, (2,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "</s>"}}}, (2,)),
        ({"config.json": {"eos_token_id": 7}}, (7,)),
        ({"config.json": {"eos_token_id": 7}, "generation_config.json": {}}, (7,)),
        (
            {
                "config.json": {"eos_token_id": 7},
                "generation_config.json": {"eos_token_id": [8, 9]},
                "tokenizer_config.json": {"eos_token": "</s>"},
            },
            (8, 9, 2),
        ),
    ],
)
def test_end_ids(directory: Directory, files: dict[str, Any], expected: tuple[int, ...]) -> None:
    """The generation configuration wins over the model's; the tokenizer's own end always ends."""
    assert load_tokenizer(directory(files)).eos_token_ids == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config.json": {"chat_template": "A"}}, {"default": "A"}),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "default", "template": "A"},
                        {"name": "tool_use", "template": "B"},
                    ]
                }
            },
            {"default": "A", "tool_use": "B"},
        ),
        (
            {
                "tokenizer_config.json": {"chat_template": "A"},
                "chat_template.jinja": "C",
                "additional_chat_templates/tool_use.jinja": "D",
            },
            {"default": "C", "tool_use": "D"},
        ),
    ],
)
def test_chat_templates(
    directory: Directory, files: dict[str, Any], expected: dict[str, str]
) -> None:
    """Templates come from the configuration or from files of their own, which win."""
    assert load_tokenizer(directory(files)).chat_templates == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": "{}"}, "is no tokenizer of the tokenizers library"),
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json is not valid JSON"),
        ({"tokenizer_config.json": {"chat_template": [{}]}}, "chat_template must be a string"),
        ({"generation_config.json": "[]"}, "generation_config.json must hold a JSON object"),
    ],
)
def test_damaged_files_are_named(directory: Directory, files: dict[str, Any], message: str) -> None:
    """A damaged file is one sentence that names it."""
    with pytest.raises(CheckpointError) as raised:
        load_tokenizer(directory(files))
    assert message in str(raised.value)


def test_a_directory_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    """A directory without tokenizer.json is refused."""
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_an_unsupported_decoder_is_named(directory: Directory) -> None:
    """A decoder whose tokens stand for no fixed bytes is refused by name."""
    with pytest.raises(CheckpointError, match="decoder 'WordPiece' is not supported"):
        load_tokenizer(directory(decoder=decoders.WordPiece()))
