"""Requests with a grammar, between the engine and `structured/`.

They wait here until their grammar is made, outside the scheduler; afterwards a sequence sits out
the steps for which its mask is not there.
"""

import time
from collections.abc import Callable

from steelyard_runtime.core.params import SALT_OWNER_DIGITS
from steelyard_runtime.core.sequence import SequencePhase
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.errors import ENDS_PROCESS, RequestError
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.grammar import GrammarState
from steelyard_runtime.structured.service import GrammarService


class GrammarRequests:
    """What the engine knows of its requests' grammars; the step thread's alone."""

    def __init__(
        self, service: GrammarService, clock_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._clock_seconds = clock_seconds
        self._waiting: dict[str, AddRequest] = {}
        self._live: dict[str, LiveRequest] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self, message: AddRequest) -> None:
        """Let the grammar of a request be made.

        Raises:
            RequestError: it is refused at once (400, 429), or the id is in use (400).
        """
        assert message.params.grammar is not None
        if message.request_id in self._waiting:
            raise RequestError(f"The request id {message.request_id!r} is in use.")
        self._service.request(
            message.request_id,
            message.params.grammar,
            client=message.cache_salt[:SALT_OWNER_DIGITS],
            token_ids=message.resume_token_ids,
        )
        self._waiting[message.request_id] = message

    def take(self) -> list[tuple[AddRequest, GrammarState | RequestError]]:
        """Return the requests whose grammars are made, or refused."""
        if not self._waiting:
            return []
        made = self._service.take()
        return [(self._waiting.pop(request_id), result) for request_id, result in made.items()]

    def cancel(self, request_id: str) -> AddRequest | None:
        """Give a waiting request up; None where it does not wait."""
        message = self._waiting.pop(request_id, None)
        if message is not None:
            self._service.cancel(request_id)
        return message

    def cancel_all(self) -> list[AddRequest]:
        """Give all waiting requests up."""
        messages = list(self._waiting.values())
        for message in messages:
            self.cancel(message.request_id)
        return messages

    def follow(self, live: LiveRequest) -> None:
        """Hold a sequence back, from now to its end, where its mask is not there."""
        self._live[live.sequence.request_id] = live

    def hold_back(self) -> dict[str, BaseException]:
        """Decide which sequences sit the next step out; waits a moment for ordinary masks.

        Returns what the grammars raised, by request id; those sequences are the caller's to end.
        """
        errors: dict[str, BaseException] = {}
        if not self._live:
            return errors
        ends_at = self._clock_seconds() + bounds.MASK_WAIT_SECONDS
        for request_id, live in list(self._live.items()):
            if live.grammar is None or live.sequence.phase is SequencePhase.FINISHED:
                del self._live[request_id]
                continue
            try:
                # Once it was late, no step waits for it any more.
                waits = not (live.grammar.is_slow or live.sequence.is_held)
                left = max(0.0, ends_at - self._clock_seconds()) if waits else 0.0
                live.sequence.is_held = not live.grammar.is_ready(left)
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                errors[request_id] = error
        return errors
