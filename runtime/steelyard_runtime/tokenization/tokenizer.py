"""The tokenizer that everything else uses: ids, bytes, special tokens and a digest.

Where it comes from is decided in `gguf_tokenizer.py` and `huggingface.py`; `loading.py` picks.
Text that spells a special token becomes that token wherever it stands, in a raw prompt and in a
chat message alike, as in vLLM and transformers: who must not let users write `<|im_end|>` filters
it before it gets here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property

from tokenizers import Tokenizer as Backend

from steelyard_runtime.checkpoint_files.fields import LARGEST
from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.tokenization.parsers import harmony
from steelyard_runtime.tokenization.token_bytes import read_byte_rules

# Some checkpoints call these special; they are parts of the answer that `parsers/` read.
_ANSWER_TAGS = frozenset({"<tool_call>", "</tool_call>", "<think>", "</think>"})


class Tokenizer:
    """A `tokenizers` object with what a server needs around it. Immutable but for its caches."""

    def __init__(
        self,
        backend: Backend,
        *,
        bos_token_id: int | None = None,
        eos_token_ids: tuple[int, ...] = (),
        pad_token_id: int | None = None,
        unk_token_id: int | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.pad_token_id = pad_token_id
        self.unk_token_id = unk_token_id
        self.chat_templates = dict(chat_templates or {})
        added = backend.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self.speaks_harmony = set(self._added.values()) >= harmony.TAGS
        """Whether answers are messages with channels, as gpt-oss writes them."""
        tags = _ANSWER_TAGS | harmony.TAGS if self.speaks_harmony else _ANSWER_TAGS
        self.special_token_ids = frozenset(
            token_id
            for token_id, token in added.items()
            if token.special and token.content not in tags
        )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        # Sparse vocabularies exist: ids reach further than the number of tokens.
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not 0 < self.vocab_size <= LARGEST:
            raise CheckpointError(
                f"the tokenizer's ids must be below {LARGEST}, its highest is {self.vocab_size - 1}"
            )
        # At least as long as any token's bytes: a longer text than n times it has over n tokens.
        self.longest_token_bytes = max((len(entry.encode()) for entry in vocabulary), default=1)
        decoder = backend.decoder
        self._rules = read_byte_rules(None if decoder is None else decoder.__getstate__())
        self._bytes: list[bytes | None] = [None] * self.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text; `add_special_tokens` adds BOS and EOS where the model has them.

        Raises:
            RequestError: the text has a lone surrogate (400).
        """
        try:
            # The batch call lets other Python threads run meanwhile, unlike the single one.
            batch = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return batch[0].ids
        except (UnicodeEncodeError, TypeError):
            raise RequestError(
                "the text has a lone surrogate (an escape between \\ud800 and \\udfff without "
                "its other half); must be valid Unicode"
            ) from None

    def decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = True,
        continues: bool = False,
    ) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD, unknown ids nothing.

        Args:
            token_ids: the ids.
            skip_special_tokens: leave special tokens out.
            continues: the text goes on after another one, so a leading space is kept that the
                encoder of a SentencePiece model would have put there.
        """
        skipped: frozenset[int] = self.special_token_ids if skip_special_tokens else frozenset()
        data = b"".join(self.token_bytes(i) for i in token_ids if i not in skipped)
        for _ in range(0 if continues else self._rules.leading_spaces):
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; nothing for an unknown id."""
        if not 0 <= token_id < self.vocab_size:
            return b""
        known = self._bytes[token_id]
        if known is None:
            known = self._bytes[token_id] = self._token_bytes(token_id)
        return known

    def _token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        entry = self.backend.id_to_token(token_id)
        return b"" if entry is None else self._rules.bytes_of(entry)

    def token_text(self, token_id: int) -> str:
        """Return a token's text alone, as logprobs show it; incomplete UTF-8 becomes U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_string(self, token_id: int | None) -> str | None:
        """Return the vocabulary's spelling of a token, for templates (`bos_token`)."""
        return None if token_id is None else self.backend.id_to_token(token_id)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The spellings that chat templates may name, of those that the model has."""
        ids = {
            "bos_token": self.bos_token_id,
            "eos_token": next(iter(self.eos_token_ids), None),
            "pad_token": self.pad_token_id,
            "unk_token": self.unk_token_id,
        }
        spellings = {name: self.token_string(token_id) for name, token_id in ids.items()}
        return {name: text for name, text in spellings.items() if text is not None}

    def to_json(self) -> str:
        """Return the whole tokenizer in the `tokenizers` library's JSON."""
        return self.backend.to_str()

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex over the tokenizer's JSON, its end ids and its chat templates."""
        parts = [
            self.to_json(),
            json.dumps(sorted(self.eos_token_ids)),
            json.dumps(self.chat_templates, sort_keys=True),
        ]
        digest = hashlib.sha256()
        for part in parts:
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()
