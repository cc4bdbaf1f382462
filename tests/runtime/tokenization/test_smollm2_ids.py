# ruff: noqa: RUF001  # Lookalike characters are what is tested.
"""SmolLM2's ids are those of llama.cpp's semantics, computed by a slow independent encoder."""

from typing import Any

import pytest

from steelyard_runtime.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.model

# llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM; what no branch matches is a piece of its own.
SMOLLM = [
    r"\p{N}",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
]

TEXTS = {
    "plain": "The quick brown fox jumps over the lazy dog.",
    "digits": "Call 911 at 12:45 or +49 (0)30 1234567, code 007.",
    "digits beside letters": "abc123def 4x4 v1.2.3 1st 2nd x1000y",
    "digits after spaces": "a 1  2   3\n4\t5",
    "other numerals": "٣٤٥ १२३ ² ½ Ⅷ ①",
    "numbered list": "1. one\n2. two\n10. ten\n",
    "code": "def f(x):\n    return [i**2 for i in range(10)]  # 100%\n",
    "spaces": "a  b   c    d     e",
    "leading and trailing spaces": "   a   ",
    "only spaces": "        ",
    "line ends": "a\n\n\nb\r\n\r\nc\n \n d",
    "tabs": "\ta\t\tb\t \tc",
    "unusual white space": "a\u00a0b\u2003c\u3000d\u2028e\x0bf\x85g",
    "contractions": "I'm you're it's we've don't they'll he'd 'S 'LL o'clock",
    "punctuation": "...!!! (what?) — “quotes” ‘single’ … #$%&*@~`",
    "emoji": "👍 😀😃 👩‍👩‍👧 🏳️‍🌈 🇩🇪 ☺️",
    "combining marks": "e\u0301 n\u0303 Z̷a̸l̵g̶o̴ नमस्ते ประเทศไทย",
    "chinese, japanese, korean": "你好，世界。 日本語テキスト 한국어 텍스트",
    "right to left": "שלום עולם مرحبا بالعالم",
    "greek, cyrillic": "Ελληνικά Привет, мир! 123 раза",
    "control characters": "a\x00b\x01c\x7fd\u200be\ufeff",
    "outside the basic plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠀀",
    "replacement character": "a\ufffdb",
    "special tokens": "<|im_start|>user\nHi 5<|im_end|>\n<|endoftext|><repo_name>x",
    "almost special": "<|im_start|> <|im_start <|im_end|>> |im_end|>",
    "long word": "a" * 300 + "b" * 300,
    "empty": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_ids_equal_the_slow_reference(text: str, smollm2: Tokenizer, slow_bpe: Any) -> None:
    """Every kind of text has the ids of the independent encoder."""
    assert smollm2.encode(text) == slow_bpe.encode(text, SMOLLM)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_survives_a_round_trip(
    text: str, smollm2: Tokenizer, slow_bpe: Any, letters: list[str]
) -> None:
    """Decoding gives the text back, less the bytes that the vocabulary lacks."""
    used = set("".join(slow_bpe.ids))
    known = {byte for byte, letter in enumerate(letters) if letter in used}
    kept = bytes(byte for byte in text.encode() if byte in known)
    ids = smollm2.encode(text)
    assert smollm2.decode(ids, skip_special_tokens=False) == kept.decode(errors="replace")


def test_a_number_is_its_digits(smollm2: Tokenizer) -> None:
    """Each digit is a token, and the space before a number is one too."""
    texts = [smollm2.token_text(i) for i in smollm2.encode("in 2024")]
    assert texts == ["in", " ", "2", "0", "2", "4"]


def test_special_ids_are_the_files(smollm2: Tokenizer) -> None:
    """End, beginning and number of tokens are what the file declares."""
    assert (smollm2.bos_token_id, smollm2.eos_token_ids) == (1, (2,))
    assert (smollm2.vocab_size, len(smollm2.special_token_ids)) == (49152, 17)


def test_a_prompt_gets_no_beginning_token(smollm2: Tokenizer) -> None:
    """The file says `add_bos_token: false`, so both ways of encoding agree."""
    assert smollm2.encode("Hi", add_special_tokens=True) == smollm2.encode(
        "Hi", add_special_tokens=False
    )


def test_every_token_has_the_bytes_of_its_letters(
    smollm2: Tokenizer, slow_bpe: Any, letters: list[str]
) -> None:
    """The bytes of all ordinary tokens are those of GPT-2's alphabet."""
    byte_of = {letter: byte for byte, letter in enumerate(letters)}
    for token, token_id in slow_bpe.ids.items():
        if token_id not in smollm2.special_token_ids:
            assert smollm2.token_bytes(token_id) == bytes(byte_of[c] for c in token)
