"""Errors of the runtime.

SteelyardError
├── ConfigError          a flag, file or checkpoint is wrong; one sentence, exit code 2
│   └── CheckpointError  the checkpoint is missing, truncated, wrong or unsupported
├── RequestError         a request is wrong; carries its HTTP status and the offending field
├── EngineDeadError      the engine process ended; requests in flight answer 503
├── FetchError           a checkpoint cannot be brought here; one sentence
└── TransferError        a KV transfer failed; the request recomputes its prompt

What one request raises, whatever it is, ends that request. It is caught as `BaseException`, because
a panic of a native library (pyo3's `PanicException`) is no `Exception`; `ENDS_PROCESS` goes on.
"""

ENDS_PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is not a failure of whatever ran: the process is told to end."""


class SteelyardError(Exception):
    """Anything that the runtime raises on purpose."""


class ConfigError(SteelyardError):
    """A flag, a file or the environment is wrong; the message names it and what is allowed."""


class CheckpointError(ConfigError):
    """The checkpoint is missing, truncated, wrong or of an unsupported kind."""


class FetchError(SteelyardError):
    """A checkpoint cannot be brought here; `passing`: the same may work later."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class RequestError(SteelyardError):
    """A request that cannot be served, in the terms of OpenAI's error object."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.kind = kind
        self.retry_after_seconds = retry_after_seconds


class EngineDeadError(SteelyardError):
    """The engine process is gone."""


class TransferError(SteelyardError):
    """A KV transfer failed; `reason` is the label of the failure counter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
