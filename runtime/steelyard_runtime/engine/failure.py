"""Why one sequence failed: what its client is told, what is logged and counted.

docs/adr/0017-what-ends-a-sequence.md says what ends a sequence and what ends a worker.
"""

import logging
from dataclasses import dataclass
from typing import Literal

from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import Output
from steelyard_runtime.sampling.likeliest import NotFiniteLogitsError

log = logging.getLogger(__name__)

Stage = Literal[
    "admission", "schedule", "forward", "grammar", "sampling", "commit", "output", "transfer"
]
"""What the engine was doing for the sequence."""

CAUSES = (
    "request", "logits", "admission", "schedule", "forward", "grammar", "sampling", "commit",
    "output", "transfer",
)  # fmt: skip
"""Labels of the counter: the stage, or `request` (its own values) and `logits` (the model's)."""

# An exception may carry a whole document in its text.
MAX_DETAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """What one sequence raised, and where."""

    stage: Stage
    error: BaseException

    @property
    def cause(self) -> str:
        """One of `CAUSES`."""
        if isinstance(self.error, NotFiniteLogitsError):
            return "logits"
        if isinstance(self.error, RequestError) and self.error.status < 500:
            return "request"
        return self.stage

    @property
    def detail(self) -> str:
        """The exception in one short line."""
        lines = str(self.error).strip().splitlines()
        text = f"{type(self.error).__name__}: {lines[0]}" if lines else type(self.error).__name__
        return text[:MAX_DETAIL_CHARACTERS]

    def output(self, request_id: str) -> Output:
        """Return the sequence's last output."""
        error = self.error
        message = f"this request failed in the engine ({self.stage}): {self.detail}"
        status, field = 500, ""
        if isinstance(error, RequestError):
            message, status, field = error.message, error.status, error.param or ""
        elif isinstance(error, NotFiniteLogitsError):
            message = str(error)
        return Output(
            request_id,
            [],
            finish_reason="error",
            # An exception may quote what is no Unicode, which no frame can hold.
            error=message.encode(errors="replace").decode(),
            error_status=status,
            error_param=field,
        )

    def write_to_log(self, request_id: str) -> None:
        """Write one line; with the traceback where it is a fault of ours."""
        fields = {"request_id": request_id, "cause": self.cause, "error": self.detail}
        expected = isinstance(self.error, RequestError | NotFiniteLogitsError)
        log.warning(
            "a sequence failed",
            extra={"fields": fields},
            exc_info=None if expected else self.error,
        )
