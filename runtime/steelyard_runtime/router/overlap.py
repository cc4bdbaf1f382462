"""Swallows what a replayed choice repeats, so that the client gets no token twice.

A replay with the same seed repeats the same tokens and the same text, but possibly cut into other
chunks: tokens are counted for logprobs and token ids, characters for text.
"""

from typing import Any


class Overlap:
    """What the client already has of one choice."""

    __slots__ = ("_characters", "_tokens")

    def __init__(self, tokens: int, characters: dict[str, int]) -> None:
        self._tokens = tokens
        self._characters = characters

    @property
    def over(self) -> bool:
        """Whether all of it has been swallowed."""
        return self._tokens <= 0 and not any(self._characters.values())

    def cut(self, choice: dict[str, Any]) -> bool:
        """Cut a chunk's choice in place; False where nothing new is left in it."""
        ids = choice.get("token_ids") or []
        known = min(len(ids), self._tokens)
        self._tokens -= known
        if known:
            choice["token_ids"] = ids[known:]
            self._cut_logprobs(choice, known)
        delta = choice.get("delta")
        holder = choice if delta is None else delta
        for kind in ("text",) if delta is None else tuple(delta):
            self._cut_text(holder, kind, all_known=bool(ids) and known == len(ids))
        left = any(holder.get(kind) for kind in holder if kind != "role") if delta else False
        left = left or bool(delta is None and choice.get("text"))
        return left or known < len(ids) or choice.get("finish_reason") is not None

    def _cut_text(self, holder: dict[str, Any], kind: str, *, all_known: bool) -> None:
        value = holder.get(kind)
        if kind == "role":
            return
        if isinstance(value, str):
            known = min(len(value), self._characters.get(kind, 0))
            if known:
                self._characters[kind] -= known
                holder[kind] = value[known:]
        elif value and all_known:
            # Tool calls come a token at a time on both workers, so whole chunks are known.
            holder[kind] = None

    @staticmethod
    def _cut_logprobs(choice: dict[str, Any], known: int) -> None:
        logprobs = choice.get("logprobs")
        if not logprobs:
            return
        for kind, values in logprobs.items():
            if isinstance(values, list):
                logprobs[kind] = values[known:]
