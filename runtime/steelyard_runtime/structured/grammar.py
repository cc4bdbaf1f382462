"""The grammar of one sequence: which tokens may come next, worked out beside the step thread.

`advance` hands the output over to a thread, which takes it in and makes the next mask, mostly in
0.02 to 3 ms; `is_ready` says whether it is there. The engine leaves a sequence out of its steps
until then, so no mask holds up others.
"""

import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.compiled import Compiled
from steelyard_runtime.structured.matchers import guarded, next_mask, take_token
from steelyard_runtime.structured.trial import slow_step


class _StepTooDearError(RequestError):
    """A step took more processor time than is allowed."""


class GrammarState:
    """The matcher of one sequence; advances with its output."""

    def __init__(
        self,
        compiled: Compiled,
        *,
        vocab_size: int,
        on_late: Callable[[], None] = lambda: None,
        on_dear: Callable[[RequestError], None] = lambda error: None,
        on_spent: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy a matcher, on its strand; there is no mask before the first `advance`.

        Args:
            compiled: what to copy.
            vocab_size: of the model, which may be padded beyond the tokenizer's.
            on_late: called when a mask is there that the engine found missing.
            on_dear: called with the refusal where a step took too long.
            on_spent: called where what the copies share is of no use any more.

        Raises:
            RequestError: it cannot be copied (400).
        """
        self._compiled = compiled
        self._field = compiled.field
        self._matcher = guarded(compiled.matcher.deep_copy, compiled.field)
        self._is_shared = True
        self._taken: list[int] = []
        self._vocab_size = vocab_size
        self._step_cpu_seconds = compiled.step_cpu_seconds
        self._on_late = on_late
        self._on_dear = on_dear
        self._on_spent = on_spent
        self._done = threading.Event()
        self._allowed: Tensor | None = None
        self._error: RequestError | None = None
        self._found_missing = False

    def advance(self, token_ids: Sequence[int]) -> None:
        """Take output tokens in, in the background; an end-of-sequence token is one of them."""
        self._done.clear()
        self._allowed = None
        self._found_missing = False
        self._compiled.strand.submit(
            lambda: self._work(token_ids),
            is_slow=self.is_slow or len(token_ids) > bounds.MANY_TOKENS,
        )

    def advance_here(self, token_ids: Sequence[int]) -> None:
        """Take output tokens in, on the caller's thread."""
        self._work(token_ids)

    @property
    def error(self) -> RequestError | None:
        """Why there is no mask."""
        return self._error

    def is_ready(self, timeout_seconds: float = 0.0) -> bool:
        """Return whether the mask, or why there is none, is there; waits that long for it.

        Where it is not, `on_late` is called once it is.
        """
        if self._done.is_set() or (timeout_seconds > 0 and self._done.wait(timeout_seconds)):
            return True
        self._found_missing = True
        return self._done.is_set()

    @property
    def is_slow(self) -> bool:
        """Whether it is not worth while to wait for the mask."""
        return self._step_cpu_seconds > bounds.SLOW_CPU_SECONDS

    def allowed(self, device: torch.device) -> Tensor:
        """Return (V,) bool: the tokens that may come next. Waits where it is not ready.

        Raises:
            RequestError: the output left the grammar, or the grammar passed a limit (400).
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._allowed is not None
        return self._allowed.to(device)

    def _work(self, token_ids: Sequence[int]) -> None:
        try:
            self._allowed = self._next(token_ids)
        except RequestError as error:
            self._error = error
        except BaseException as error:
            self._error = RequestError(
                f"`{self._field}` holds a grammar that cannot be followed: {type(error).__name__}",
                status=500,
                param=self._field,
                kind="server_error",
            )
        finally:
            self._done.set()
            if self._found_missing:
                self._on_late()

    def _next(self, token_ids: Sequence[int]) -> Tensor:
        if self._error is not None:
            raise self._error
        before, self._taken = self._taken, [*self._taken, *token_ids]
        try:
            mask = self._follow(token_ids)
        except _StepTooDearError:
            raise
        except RequestError:
            if not self._is_shared:
                raise
            # Copies share the states of their lexer: it may be another one that used them up.
            self._on_spent()
            self._is_shared = False
            self._matcher = self._compiled.remake()
            mask = self._follow([*before, *token_ids])
        allowed = torch.zeros(self._vocab_size, dtype=torch.bool)
        count = min(self._vocab_size, len(mask))
        allowed[:count] = torch.frombuffer(bytearray(mask), dtype=torch.uint8)[:count] != 0
        return allowed

    def _follow(self, token_ids: Sequence[int]) -> bytes:
        for token_id in token_ids:
            started = time.thread_time()
            take_token(self._matcher, token_id, self._field)
            self._note(time.thread_time() - started)
        started = time.thread_time()
        mask = next_mask(self._matcher, self._field)
        self._note(time.thread_time() - started)
        return mask

    def _note(self, seconds: float) -> None:
        self._step_cpu_seconds = max(self._step_cpu_seconds * 0.9, seconds)
        if seconds > bounds.MASK_CPU_SECONDS:
            error = _StepTooDearError(slow_step(self._field, seconds), param=self._field)
            self._on_dear(error)
            raise error
