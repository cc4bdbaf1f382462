"""Why a grammar was refused, in one sentence, and for how long that is remembered."""

from collections import OrderedDict
from collections.abc import Callable

from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.trial import TrialOutcome


def refusal(outcome: TrialOutcome, field: str) -> RequestError:
    """Return what a client is told about a trial that its grammar did not pass (400)."""
    if outcome.end == "refused":
        return RequestError(outcome.error, param=field)
    why = {
        "cpu": f"takes more than {bounds.TRIAL_CPU_SECONDS:g} s of processor time to compile, "
        "which is the most that is allowed",
        "memory": f"takes more than {bounds.TRIAL_MEMORY_BYTES >> 20} MiB of memory, "
        "which is the most that is allowed",
    }.get(
        outcome.end,
        f"needs a stack of more than {bounds.TRIAL_STACK_BYTES >> 20} MiB to compile, which is "
        "the most that is allowed; is it nested or chained too deeply?",
    )
    return RequestError(f"`{field}` holds a grammar that {why}", param=field)


def unavailable(field: str) -> RequestError:
    """Return what a client is told whose grammar could not be tried (503)."""
    return RequestError(
        f"the grammar of `{field}` could not be tried; try again",
        status=503,
        param=field,
        code="grammar_unavailable",
        kind="server_error",
        retry_after_seconds=1,
    )


class Refusals:
    """Refused grammars by digest; each is forgotten after a while."""

    def __init__(self, clock_seconds: Callable[[], float]) -> None:
        self._clock_seconds = clock_seconds
        self._until: OrderedDict[bytes, tuple[float, RequestError]] = OrderedDict()

    def add(self, digest: bytes, error: RequestError) -> None:
        """Remember a refusal."""
        self._until[digest] = (self._clock_seconds() + bounds.REFUSAL_SECONDS, error)
        if len(self._until) > bounds.MAX_REFUSALS:
            self._until.popitem(last=False)

    def check(self, digest: bytes) -> None:
        """Refuse again what was refused.

        Raises:
            RequestError: as it was told then (400).
        """
        until, error = self._until.get(digest, (0.0, None))
        if error is None:
            return
        if self._clock_seconds() < until:
            raise RequestError(error.message, param=error.param)
        del self._until[digest]
