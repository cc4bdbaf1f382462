"""Builds a tokenizer from GGUF metadata (byte-level BPE, `tokenizer.ggml.model` = `gpt2`).

Which split belongs to which `tokenizer.ggml.pre` is in `pretokenizers.py`. Unknown values are
refused by name: a near miss would give other ids for some texts, silently.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken, decoders, models, processors
from tokenizers import Tokenizer as Backend

from steelyard_runtime.checkpoint_files.gguf_header import read_gguf_header
from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.tokenization.damage import refusing_damage
from steelyard_runtime.tokenization.pretokenizers import PRE_TOKENIZERS, PreTokenizerRules
from steelyard_runtime.tokenization.tokenizer import Tokenizer

_CONTROL = 3
_USER_DEFINED = 4
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Ends of a turn that files written before `eot_token_id` existed do not declare. llama.cpp finds
# them by their text as well; like transformers we do not add `<|endoftext|>`.
_END_TEXTS = ("<|eot_id|>", "<|im_end|>", "<|eom_id|>")

_Wanted = TypeVar("_Wanted", str, int, bool, list[str], list[int])


def load_gguf_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a GGUF file.

    Raises:
        CheckpointError: the file is damaged, or its tokenizer is of an unsupported kind.
    """
    return _GgufTokenizer(read_gguf_header(path).metadata, path).build()


class _GgufTokenizer:
    """The `tokenizer.*` keys of one file."""

    def __init__(self, metadata: Mapping[str, Any], path: Path) -> None:
        self._metadata = metadata
        self._path = path

    def build(self) -> Tokenizer:
        model = self._optional("model", str)
        if model != "gpt2":
            raise CheckpointError(
                f"{self._path}: tokenizer.ggml.model is {shown(repr(model))}; must be 'gpt2' "
                "(byte-level BPE)"
            )
        pre = self._optional("pre", str) or "default"
        rules = PRE_TOKENIZERS.get(pre)
        if rules is None:
            known = ", ".join(sorted(PRE_TOKENIZERS))
            raise CheckpointError(
                f"{self._path}: tokenizer.ggml.pre is '{shown(pre)}'; must be one of: {known}"
            )
        tokens = self._required("tokens", list[str])
        vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
        if len(vocabulary) != len(tokens):
            raise CheckpointError(f"{self._path}: tokenizer.ggml.tokens names a token twice")
        merges = self._merges()
        with refusing_damage(f"{self._path}: its vocabulary and merges do not fit together"):
            bpe = models.BPE(vocabulary, merges, ignore_merges=rules.ignore_merges)
        with refusing_damage(f"{self._path}: its tokenizer is damaged"):
            return self._around(Backend(bpe), rules, tokens, vocabulary)

    def _around(
        self,
        backend: Backend,
        rules: PreTokenizerRules,
        tokens: list[str],
        vocabulary: dict[str, int],
    ) -> Tokenizer:
        backend.pre_tokenizer = rules.build()
        backend.decoder = decoders.ByteLevel()
        self._add_special_tokens(backend, tokens)
        bos = self._token_id("bos_token_id", len(tokens))
        eos = self._token_id("eos_token_id", len(tokens))
        add_bos = self._optional("add_bos_token", bool)
        leading = bos if (rules.add_bos if add_bos is None else add_bos) else None
        trailing = eos if self._optional("add_eos_token", bool) else None
        _surround(backend, tokens, leading, trailing)
        return Tokenizer(
            backend,
            bos_token_id=bos,
            eos_token_ids=self._end_ids(vocabulary),
            pad_token_id=self._token_id("padding_token_id", len(tokens)),
            unk_token_id=self._token_id("unknown_token_id", len(tokens)),
            chat_templates=self._chat_templates(),
        )

    def _merges(self) -> list[tuple[str, str]]:
        merges: list[tuple[str, str]] = []
        for merge in self._required("merges", list[str]):
            # From the second character on, as llama.cpp does: a token may start with a space.
            at = merge.find(" ", 1)
            if at < 0:
                raise CheckpointError(
                    f"{self._path}: tokenizer.ggml.merges has '{shown(merge)}'; must be two tokens"
                )
            merges.append((merge[:at], merge[at + 1 :]))
        return merges

    def _add_special_tokens(self, backend: Backend, tokens: list[str]) -> None:
        types = self._optional("token_type", list[int]) or []
        if types and len(types) != len(tokens):
            raise CheckpointError(
                f"{self._path}: tokenizer.ggml.token_type has {len(types)} entries; must have "
                f"{len(tokens)}, one a token"
            )
        control = [tokens[i] for i, kind in enumerate(types) if kind == _CONTROL]
        user = [tokens[i] for i, kind in enumerate(types) if kind == _USER_DEFINED]
        backend.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in control]
        )
        backend.add_tokens([AddedToken(text, normalized=False) for text in user])

    def _end_ids(self, vocabulary: dict[str, int]) -> tuple[int, ...]:
        ends = [self._token_id(key, len(vocabulary)) for key in _END_KEYS]
        ends += [vocabulary.get(text) for text in _END_TEXTS]
        return tuple(dict.fromkeys(end for end in ends if end is not None))

    def _chat_templates(self) -> dict[str, str]:
        prefix = "tokenizer.chat_template"
        found = {}
        for key, value in self._metadata.items():
            if not key.startswith(prefix) or key.startswith(f"{prefix}s"):
                continue
            if not isinstance(value, str) or not _is_unicode(key + value):
                raise CheckpointError(f"{self._path}: {shown(key)} must be text in UTF-8")
            found[key.removeprefix(prefix).removeprefix(".") or "default"] = value
        return found

    def _token_id(self, key: str, vocab_size: int) -> int | None:
        token_id = self._optional(key, int)
        if token_id is not None and not 0 <= token_id < vocab_size:
            raise CheckpointError(
                f"{self._path}: tokenizer.ggml.{key} is {token_id}; must be below {vocab_size}"
            )
        return token_id

    def _required(self, key: str, kind: type[_Wanted]) -> _Wanted:
        value = self._optional(key, kind)
        if value is None:
            raise CheckpointError(f"{self._path}: has no tokenizer.ggml.{key}")
        return value

    def _optional(self, key: str, kind: type[_Wanted]) -> _Wanted | None:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return None
        # A GGUF array has one item type, so its first item tells.
        items = getattr(kind, "__args__", None)
        matches = (
            isinstance(value, list) and (not value or isinstance(value[0], items[0]))
            if items
            else isinstance(value, kind)
        )
        if not matches:
            raise CheckpointError(f"{self._path}: tokenizer.ggml.{key} has the wrong type")
        found: _Wanted = value
        return found


def _is_unicode(text: str) -> bool:
    """Whether it has no bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _surround(
    backend: Backend, tokens: list[str], leading: int | None, trailing: int | None
) -> None:
    """Make `add_special_tokens` put these ids around a text."""
    special = [(tokens[i], i) for i in (leading, trailing) if i is not None]
    if not special:
        return
    single = [
        *([tokens[leading]] if leading is not None else []),
        "$A",
        *([tokens[trailing]] if trailing is not None else []),
    ]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=None, special_tokens=special
    )
