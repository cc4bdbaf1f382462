"""A tokenizer whose ids are the bytes of the text: tests can write token ids by hand."""

import json
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from steelyard_runtime.tokenization.token_bytes import BYTE_OF_LETTER

IM_START, IM_END = 256, 257
VOCAB_SIZE = 258
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_byte_tokenizer(directory: Path) -> Path:
    """Write `tokenizer.json` and its configuration; returns the directory."""
    backend = Backend(BPE(vocab=dict(BYTE_OF_LETTER), merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens(
        [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)]
    )
    backend.save(str(directory / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def byte_ids(text: str) -> list[int]:
    """Return the token ids of a text."""
    return list(text.encode())
