"""The splits of each `tokenizer.ggml.pre` equal llama.cpp's expressions, applied independently."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.tokenization.pretokenizers import PRE_TOKENIZERS

# As they stand in llama.cpp (src/llama-vocab.cpp), of which ours leave out or add nothing but
# what changes no split.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
NEWER = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]
LLAMA_CPP = {
    "default": DEFAULT,
    "gpt-2": [GPT2],
    "olmo": [GPT2],
    "phi-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "llama-bpe": [NEWER.replace("NUMBER", r"\p{N}{1,3}")],
    "llama3": [NEWER.replace("NUMBER", r"\p{N}{1,3}")],
    "llama-v3": [NEWER.replace("NUMBER", r"\p{N}{1,3}")],
    "qwen2": [NEWER.replace("NUMBER", r"\p{N}")],
    "deepseek-r1-qwen": [NEWER.replace("NUMBER", r"\p{N}")],
}

# Characters on which the expressions branch, of every class that they name.
ALPHABET = "aZéß日が٣½Ⅷ0123456789 \t\n\r\u00a0\u3000'stREvLd.,!$+<=>^~|`_-(—👍\u0301\u200d"
texts = st.lists(
    st.one_of(
        st.text(ALPHABET, max_size=6),
        st.sampled_from(["  ", "\n\n", " \r\n ", "'s", "'LL", "123456", " 12", "\t\t"]),
    ),
    max_size=8,
).map("".join)


def pieces(text: str, expressions: list[str]) -> list[str]:
    parts = [text]
    for expression in expressions:
        cut: list[str] = []
        for part in parts:
            at = 0
            for match in regex.finditer(expression, part):
                cut += [part[at : match.start()], match.group()]
                at = match.end()
            cut.append(part[at:])
        parts = [part for part in cut if part]
    return parts


def spelled(text: str, letters: list[str]) -> str:
    return "".join(letters[byte] for byte in text.encode())


def test_every_value_is_checked() -> None:
    """No split is on offer that this file does not compare."""
    assert LLAMA_CPP.keys() == PRE_TOKENIZERS.keys()


@pytest.mark.parametrize("pre", sorted(LLAMA_CPP))
@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_pieces_equal_llama_cpps(pre: str, text: str, letters: list[str]) -> None:
    """Random texts are split where the original expressions split them."""
    ours = [piece for piece, _ in PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)]
    assert ours == [spelled(piece, letters) for piece in pieces(text, LLAMA_CPP[pre])]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["I", "Ġ", "1", "2", "3", "4"]),
        ("gpt-2", ["I", "Ġ1234"]),
        ("llama-bpe", ["I", "Ġ", "123", "4"]),
        ("qwen2", ["I", "Ġ", "1", "2", "3", "4"]),
        ("default", ["I", "Ġ", "123", "4"]),
    ],
)
def test_numbers(pre: str, expected: list[str]) -> None:
    """A number is split as the family of models was trained."""
    assert [piece for piece, _ in PRE_TOKENIZERS[pre].build().pre_tokenize_str("I 1234")] == (
        expected
    )
