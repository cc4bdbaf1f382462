"""What a client of one stream has been sent so far, and the rewriting of what comes next.

One transcript spans all workers that serve the stream: it takes events in, strips what the client
did not ask for, remembers token ids, and after a replay lets through only what is new. It does no
I/O and chooses no worker. What is sent to the next worker is in `replay.py`.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from steelyard_runtime.router.overlap import Overlap
from steelyard_runtime.router.sse import EventSplitter

IDENTITY_FIELDS = ("id", "created", "model", "system_fingerprint")
_DONE = b"[DONE]"
MOST_TOKENS = 2**24  # that any count of a worker may have, and a stream's choices together


@dataclass(slots=True, eq=False)
class ChoiceState:
    """One choice, as the client has it."""

    token_ids: list[int] = field(default_factory=list)
    role_sent: bool = False
    prompt_ids_sent: bool = False
    finished: bool = False
    # Characters sent, per kind of text; counted only where a replay repeats them.
    characters: dict[str, int] = field(default_factory=dict)
    overlap: Overlap | None = None  # what a replayed worker repeats, still to be swallowed


def cached_tokens(usage: dict[str, Any]) -> int | None:
    """Return how many prompt tokens were in the worker's prefix cache, where it says so."""
    details = usage.get("prompt_tokens_details")
    return token_count(details.get("cached_tokens")) if isinstance(details, dict) else None


def token_count(value: Any) -> int | None:
    """Return a number of tokens that a worker reports; None where it cannot be one."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


class Transcript:
    """The state of one client stream across workers."""

    def __init__(
        self, *, choices: int, keep_token_ids: bool, keep_timing: bool, keep_usage: bool = True
    ) -> None:
        self.choices: dict[int, ChoiceState] = {}
        self.expected_choices = choices
        self.done = False
        self.error: dict[str, Any] | None = None  # a worker's error event; ends its attempt
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.usage_sent = not keep_usage  # or it is not for the client
        self.has_text = False  # text went out, with or without token ids
        self.has_token_ids = False
        self.identity: dict[str, Any] | None = None
        self._keep_token_ids = keep_token_ids
        self._keep_timing = keep_timing
        self._prompt_ids_sent = False
        self._splitter = EventSplitter()
        self._replays = 0
        self._resumed = False

    @property
    def begun(self) -> bool:
        """Whether anything that a model made has come."""
        return self.has_text or self.has_token_ids

    @property
    def completion_tokens(self) -> int:
        """Output tokens of all choices so far."""
        return sum(len(one.token_ids) for one in self.choices.values())

    @property
    def complete(self) -> bool:
        """Whether every choice has its finish reason."""
        return len(self.choices) >= self.expected_choices and all(
            one.finished for one in self.choices.values()
        )

    def begin_replay(self, *, resumed: bool) -> None:
        """Expect a new worker's stream.

        Args:
            resumed: it goes on after the tokens so far; otherwise it repeats them, and what the
                client has is swallowed.
        """
        self._splitter = EventSplitter()
        self._replays += 1
        self._resumed = resumed
        self.error = None
        for one in self.choices.values():
            one.overlap = None if resumed else Overlap(len(one.token_ids), dict(one.characters))

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the worker; return those for the client, possibly none."""
        out = []
        for payload in self._splitter.feed(data):
            if payload == _DONE:
                self.done = True
                out.append(b"data: [DONE]\n\n")
                break
            event = self._event(payload)
            if event is not None:
                out.append(b"data: " + event + b"\n\n")
            if self.error is not None:
                break
        return b"".join(out)

    def closing_events(self, *, with_usage: bool) -> bytes:
        """Return the end of a stream whose choices are finished but whose worker is gone."""
        out = b""
        if with_usage and not self.usage_sent:
            prompt = self.prompt_tokens or 0
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": self.completion_tokens,
                "total_tokens": prompt + self.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": self.cached_tokens or 0},
            }
            identity = self.identity or {}
            out = b"data: " + orjson.dumps({**identity, "choices": [], "usage": usage}) + b"\n\n"
        return out + b"data: [DONE]\n\n"

    def _event(self, payload: bytes) -> bytes | None:
        try:
            event = orjson.loads(payload)
            choices = event["choices"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return self._other(payload)
        if self.identity is None:
            self._first(event)
        elif self._replays:
            event.update(self.identity)
        self._strip(event)
        usage = event.get("usage")
        if usage is not None:
            self._usage(usage)
        if choices:
            kept = [one for one in choices if self._choice(one)]
            if not kept:
                return None
            event["choices"] = kept
        elif usage is not None:
            if self.usage_sent:
                return None
            self.usage_sent = True
        return orjson.dumps(event)

    def _first(self, event: dict[str, Any]) -> None:
        self.identity = {
            name: event[name] for name in (*IDENTITY_FIELDS, "object") if name in event
        }

    def _other(self, payload: bytes) -> bytes | None:
        """Take an event that is no chunk: an error ends the attempt, the rest goes through."""
        try:
            error = orjson.loads(payload)["error"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return payload
        self.error = error if isinstance(error, dict) else {"message": str(error)}
        return None

    def _strip(self, event: dict[str, Any]) -> None:
        event.pop("kv_transfer_params", None)
        if not self._keep_timing:
            event.pop("steelyard", None)
        ids = event.get("prompt_token_ids")
        if ids is not None:
            self.prompt_tokens = len(ids)
            if not self._keep_token_ids or self._prompt_ids_sent:
                del event["prompt_token_ids"]
            self._prompt_ids_sent = True

    def _usage(self, usage: dict[str, Any]) -> None:
        if self._resumed and self.has_token_ids:
            # The router's own count is right whether or not the worker counts resumed tokens.
            usage["completion_tokens"] = self.completion_tokens
            prompt = token_count(usage.get("prompt_tokens")) or 0
            usage["total_tokens"] = prompt + self.completion_tokens
        self.prompt_tokens = token_count(usage.get("prompt_tokens", self.prompt_tokens))
        self.cached_tokens = cached_tokens(usage)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Rewrite one choice of a chunk in place; False where nothing in it is new."""
        index = choice.get("index", 0)
        state = self.choices.get(index)
        if state is None:
            if type(index) is not int or not 0 <= index < self.expected_choices:
                raise ValueError("a choice that was not asked for")
            state = self.choices[index] = ChoiceState()
        if state.finished:
            return False
        if "prompt_token_ids" in choice:
            self._prompt_ids(choice, state)
        if state.overlap is not None and not self._swallow(choice, state):
            return False
        ids = choice.get("token_ids")
        if ids:
            self.has_token_ids = True
            state.token_ids += ids
            if len(state.token_ids) > MOST_TOKENS:
                raise ValueError("more tokens than any model makes")
        if not self._keep_token_ids:
            choice.pop("token_ids", None)
        if choice.get("finish_reason") is not None:
            state.finished = True
        repeats_role = self._drop_role(choice, state)
        has_text = self._text(choice, state)
        return not repeats_role or has_text or bool(ids) or state.finished

    def _prompt_ids(self, choice: dict[str, Any], state: ChoiceState) -> None:
        ids = choice["prompt_token_ids"]
        if ids is not None:
            self.prompt_tokens = len(ids)
            if not self._keep_token_ids or state.prompt_ids_sent:
                del choice["prompt_token_ids"]
            state.prompt_ids_sent = True

    @staticmethod
    def _drop_role(choice: dict[str, Any], state: ChoiceState) -> bool:
        """Let the role through once; return whether this was a repetition."""
        delta = choice.get("delta")
        if not delta or "role" not in delta:
            return False
        if state.role_sent:
            del delta["role"]
            return True
        state.role_sent = True
        return False

    def _swallow(self, choice: dict[str, Any], state: ChoiceState) -> bool:
        overlap = state.overlap
        assert overlap is not None
        new = overlap.cut(choice)
        if overlap.over:
            state.overlap = None
        return new

    def _text(self, choice: dict[str, Any], state: ChoiceState) -> bool:
        """Count what text goes out; return whether there is any content in the choice."""
        delta = choice.get("delta")
        if delta is None:
            text = choice.get("text")
            if text:
                self.has_text = True
                if self.expected_choices > 1:
                    state.characters["text"] = state.characters.get("text", 0) + len(text)
            return bool(text)
        found = False
        for kind, value in delta.items():
            if kind == "role" or not value:
                continue
            found = self.has_text = True
            if self.expected_choices > 1 and isinstance(value, str):
                state.characters[kind] = state.characters.get(kind, 0) + len(value)
        return found
