"""Compiled grammars: the cache of them, and their copies, of which each sequence has one."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.lanes import Strand
from steelyard_runtime.structured.trial_queue import Digest


@dataclass(frozen=True, slots=True)
class Compiled:
    """A matcher to copy, and what its trial measured."""

    digest: Digest
    matcher: Any
    remake: Callable[[], Any]
    """Returns a matcher that shares nothing with `matcher`; raises `RequestError`."""
    strand: Strand
    """Where everything is done with `matcher` and its copies."""
    field: str
    num_bytes: int
    step_cpu_seconds: float

    @property
    def is_slow(self) -> bool:
        """Whether what is done with it is for the slow lane."""
        return self.step_cpu_seconds > bounds.SLOW_CPU_SECONDS


class CompiledCache:
    """The grammars that were used last, bounded in number and bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Digest, Compiled] = OrderedDict()

    def get(self, digest: Digest) -> Compiled | None:
        """Return a grammar, which is the newest then."""
        compiled = self._entries.get(digest)
        if compiled is not None:
            self._entries.move_to_end(digest)
        return compiled

    def drop(self, compiled: Compiled) -> None:
        """Forget a grammar, unless another has taken its place."""
        if self._entries.get(compiled.digest) is compiled:
            del self._entries[compiled.digest]

    def put(self, compiled: Compiled) -> None:
        """Keep a grammar, at the cost of those that were not used for longest."""
        self._entries[compiled.digest] = compiled
        while len(self._entries) > 1 and (
            len(self._entries) > bounds.MAX_CACHED_GRAMMARS
            or sum(each.num_bytes for each in self._entries.values()) > bounds.MAX_CACHED_BYTES
        ):
            self._entries.popitem(last=False)


class LiveMemory:
    """What the grammars of all sequences hold together, as measured in their trials."""

    def __init__(self) -> None:
        self.num_bytes = 0
        # A state may be collected while this thread holds the lock.
        self._lock = threading.RLock()

    def take(self, compiled: Compiled) -> None:
        """Count one more copy, before it is made.

        Raises:
            RequestError: there is no room for it (429).
        """
        with self._lock:
            if self.num_bytes + compiled.num_bytes <= bounds.MAX_LIVE_BYTES:
                self.num_bytes += compiled.num_bytes
                return
        raise RequestError(
            f"the grammars of running requests hold {self.num_bytes >> 20} MiB, at most "
            f"{bounds.MAX_LIVE_BYTES >> 20} may be held, and this one of `{compiled.field}` takes "
            f"{compiled.num_bytes >> 20} MiB; try again",
            status=429,
            param=compiled.field,
            code="grammar_memory_full",
            kind="rate_limit_error",
            retry_after_seconds=1,
        )

    def free(self, compiled: Compiled) -> None:
        """Count one copy less."""
        with self._lock:
            self.num_bytes -= compiled.num_bytes

    def free_with(self, owner: object, compiled: Compiled) -> None:
        """Count one copy less when its owner is gone."""
        weakref.finalize(owner, self.free, compiled).atexit = False
