"""Which new grammar is tried next: one at a time of the quick ones, and one of the slow ones.

A grammar starts among the quick ones and gets little processor time there; one that needs more is
tried again among the slow ones. So a flood of slow grammars costs an ordinary one its turn among
many, a seventh of a second each, and not a second each. Within a lane clients take turns; a client
is what the caller says, such as the salt that the router derives from an API key.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds

Digest = bytes


def digest_of(grammar: Grammar) -> Digest:
    """Return what tells a grammar, and the field that holds it, from others."""
    digest = hashlib.blake2b(digest_size=32)
    for part in (grammar.kind, grammar.field, grammar.text):
        data = part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


@dataclass(slots=True, eq=False)
class NewGrammar:
    """A grammar on its way to its first matcher, and the requests that wait for it."""

    digest: Digest
    grammar: Grammar
    client: str
    requests: dict[str, Sequence[int]] = field(default_factory=dict)  # with their resumed tokens
    trial_id: int | None = None
    started_at_seconds: float = 0.0


class TrialLane:
    """A queue in which clients take turns, and the one trial that runs of it."""

    def __init__(self, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self.running: NewGrammar | None = None
        self._queues: dict[str, deque[NewGrammar]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def check_room(self, client: str) -> None:
        """Refuse one more.

        Raises:
            RequestError: too many wait, of all or of this client (429).
        """
        own = len(self._queues.get(client, ()))
        if len(self) < bounds.MAX_QUEUED_TRIALS and own < bounds.MAX_QUEUED_TRIALS_OF_ONE:
            return
        raise RequestError(
            f"too many new grammars wait to be compiled: {len(self)} of at most "
            f"{bounds.MAX_QUEUED_TRIALS}, {own} of at most {bounds.MAX_QUEUED_TRIALS_OF_ONE} "
            "of this client; try again",
            status=429,
            code="grammar_queue_full",
            kind="rate_limit_error",
            retry_after_seconds=1,
        )

    def put(self, new: NewGrammar) -> None:
        """Queue a grammar."""
        self._queues.setdefault(new.client, deque()).append(new)

    def remove(self, new: NewGrammar) -> bool:
        """Take a grammar out that waits; False where it does not wait here."""
        queue = self._queues.get(new.client)
        if queue is None or new not in queue:
            return False
        queue.remove(new)
        if not queue:
            del self._queues[new.client]
        return True

    def take(self) -> NewGrammar | None:
        """Make the next one the running one; None where one runs or none waits."""
        if self.running is not None or not self._queues:
            return None
        client, queue = next(iter(self._queues.items()))
        del self._queues[client]
        self.running = queue.popleft()
        if queue:
            self._queues[client] = queue  # behind the others: it had its turn
        return self.running
