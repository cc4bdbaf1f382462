"""How text is split before byte-pair merging, by the value of `tokenizer.ggml.pre`.

The expressions are those of llama.cpp (`src/llama-vocab.cpp`, `llm_tokenizer_bpe`), which writes
the GGUF files. Only splits that a test checks against an independent implementation are listed.
"""

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

# llama.cpp writes GPT-2's expression without its last branch, `|\s+`; what no branch matches
# becomes a piece of its own, which is the same.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class PreTokenizerRules:
    """One kind of split, and the defaults that llama.cpp ties to it.

    Each expression splits the pieces that the one before it left; matches and what lies between
    them are pieces. `ignore_merges`: a piece that is a token is taken whole.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    def build(self) -> PreTokenizer:
        """Return the pre-tokenizer, which also maps bytes to the vocabulary's letters."""
        splits: list[PreTokenizer] = [
            Split(Regex(expression), "isolated") for expression in self.expressions
        ]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_DEFAULT = PreTokenizerRules((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
_PLAIN = PreTokenizerRules((_GPT2,))
_DIGITS_FIRST = PreTokenizerRules((r"\p{N}", _GPT2))
_LLAMA3 = PreTokenizerRules(
    (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",), ignore_merges=True, add_bos=True
)
_QWEN2 = PreTokenizerRules((rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",))

PRE_TOKENIZERS: dict[str, PreTokenizerRules] = {
    "default": _DEFAULT,
    "gpt-2": _PLAIN,
    "olmo": _PLAIN,
    "phi-2": _PLAIN,
    "smollm": _DIGITS_FIRST,
    "starcoder": _DIGITS_FIRST,
    "refact": _DIGITS_FIRST,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
