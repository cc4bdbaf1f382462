"""Which worker has seen a prompt's beginning, without tokenising it.

The text of a request is cut into chunks; chunk i's hash covers chunks 0 to i, so equal hashes mean
equal beginnings. Each worker has an LRU set of hashes; the share found there estimates how much of
the prompt its prefix cache holds. Token counts are estimated from characters per token, learned
from the usage that workers report. Works for any engine with a prefix cache.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import orjson
from xxhash import xxh3_64_intdigest

CHUNK_CHARACTERS = 256
CHUNK_TOKENS = 64  # of a prompt that is given as token ids
# How many chunks are remembered of a worker: at most, and after any number of mistakes.
CHUNKS_PER_WORKER, FEWEST_CHUNKS = 8192, 16
CHUNKS_PER_PROMPT = 1024  # longer prompts are told apart by their first 256 Ki characters
_SEED = 0x5354454C  # any fixed number: all routers of a service agree


def rendered_text(body: dict[str, Any]) -> str:
    """Return the text of a chat or completion request in the order that templates render it.

    Only stability matters: equal beginnings of prompts give equal beginnings here.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        prompt = only_prompt(body)
        return prompt if isinstance(prompt, str) else orjson.dumps(prompt).decode()
    parts = []
    tools = body.get("tools")
    if tools:
        parts.append(orjson.dumps(tools).decode())
    for message in messages:
        if not isinstance(message, dict):
            continue
        parts.append(f"\n<{message.get('role')}>")
        content = message.get("content")
        if isinstance(content, str):
            parts.append(content)
        elif content is not None:
            parts.append(orjson.dumps(content).decode())
        if message.get("tool_calls"):
            parts.append(orjson.dumps(message["tool_calls"]).decode())
    return "".join(parts)


def only_prompt(body: dict[str, Any]) -> Any:
    """Return `prompt`; a list that holds exactly one prompt stands for that."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        return prompt[0]
    return prompt


def token_prompt(body: dict[str, Any]) -> list[int] | None:
    """Return the prompt's token ids where the request gives exactly one such prompt."""
    prompt = only_prompt(body)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    return None


def chain_hashes(chunks: Iterable[bytes], salt: str = "") -> list[int]:
    """Return the chained hashes of the first chunks; `salt` separates tenants (`cache_salt`)."""
    previous = xxh3_64_intdigest(salt.encode(), seed=_SEED)
    hashes = []
    for chunk in islice(chunks, CHUNKS_PER_PROMPT):
        previous = xxh3_64_intdigest(chunk, seed=previous)
        hashes.append(previous)
    return hashes


def text_chunks(text: str) -> Iterable[bytes]:
    """Cut text into whole chunks; the tail that fills none is left out."""
    for start in range(0, len(text) - CHUNK_CHARACTERS + 1, CHUNK_CHARACTERS):
        yield text[start : start + CHUNK_CHARACTERS].encode("utf-8", "surrogatepass")


def token_chunks(tokens: Sequence[int]) -> Iterable[bytes]:
    """Cut token ids into whole chunks."""
    for start in range(0, len(tokens) - CHUNK_TOKENS + 1, CHUNK_TOKENS):
        yield repr(tokens[start : start + CHUNK_TOKENS]).encode()


class PrefixMemory:
    """The chunk hashes that each worker has probably cached, newest last.

    How much a worker's cache holds is learned from its answers: what is remembered of it is halved
    when a prompt that was taken for cached was not, and grows with each that was (as TCP finds its
    window: additive increase, multiplicative decrease).
    """

    def __init__(self, chunks_per_worker: int = CHUNKS_PER_WORKER) -> None:
        self._limit = chunks_per_worker
        self._limits: dict[str, int] = {}
        self._seen: dict[str, OrderedDict[int, None]] = {}

    def warm_chunks(self, worker_id: str, hashes: Sequence[int]) -> int:
        """Return how many leading chunks the worker has seen."""
        seen = self._seen.get(worker_id)
        if not seen:
            return 0
        for count, chunk in enumerate(hashes):
            if chunk not in seen:
                return count
        return len(hashes)

    def remember(self, worker_id: str, hashes: Sequence[int]) -> None:
        """Note that the worker has computed this prompt; the oldest chunks are forgotten."""
        seen = self._seen.setdefault(worker_id, OrderedDict())
        # Last chunks first: a chain is useless without its beginning, so that is forgotten last.
        for chunk in reversed(hashes):
            seen[chunk] = None
            seen.move_to_end(chunk)
        self._trim(worker_id)

    def confirm(self, worker_id: str, chunks: int, *, cached: bool) -> None:
        """Learn from the answer to a prompt of so many chunks that was taken for cached."""
        limit = self._limits.get(worker_id, self._limit)
        if cached:
            limit = min(self._limit, limit + chunks)
        else:
            limit = max(FEWEST_CHUNKS, min(limit, self.size(worker_id)) // 2)
        self._limits[worker_id] = limit
        self._trim(worker_id)

    def forget(self, worker_id: str) -> None:
        """Drop what is known of a worker: it is gone, or it restarted with an empty cache."""
        self._seen.pop(worker_id, None)
        self._limits.pop(worker_id, None)

    def size(self, worker_id: str) -> int:
        """Return how many chunks are remembered of a worker."""
        return len(self._seen.get(worker_id, ()))

    def _trim(self, worker_id: str) -> None:
        seen = self._seen.get(worker_id)
        limit = self._limits.get(worker_id, self._limit)
        while seen and len(seen) > limit:
            seen.popitem(last=False)


class TokenEstimator:
    """Characters per token, learned as a moving average over the prompts whose usage was seen."""

    def __init__(self, characters_per_token: float = 4.0, weight: float = 0.1) -> None:
        self.characters_per_token = characters_per_token
        self._weight = weight

    def estimate(self, characters: int) -> int:
        """Return the estimated number of tokens."""
        return round(characters / self.characters_per_token)

    def learn(self, characters: int, prompt_tokens: int) -> None:
        """Take one observation; prompts too short to tell (templates dominate) are left out."""
        if prompt_tokens < 16 or characters < 64:
            return
        seen = min(16.0, max(0.5, characters / prompt_tokens))
        self.characters_per_token += self._weight * (seen - self.characters_per_token)
