"""What is counted between two ticks."""

from dataclasses import dataclass

from steelyard_operator.planning.balance.signals import Signals
from steelyard_operator.simulation.traces import Request


@dataclass(slots=True)
class Window:
    """What has been seen since the last tick."""

    requests: int = 0
    input_tokens: int = 0
    input_tokens_squared: float = 0.0
    finished: int = 0
    finished_output_tokens: int = 0
    context_tokens: int = 0

    def arrived(self, request: Request) -> None:
        """Count an arrival."""
        self.requests += 1
        self.input_tokens += request.input_tokens
        self.input_tokens_squared += request.input_tokens**2

    def answered(self, request: Request) -> None:
        """Count the end of an answer."""
        self.finished += 1
        self.finished_output_tokens += request.output_tokens
        self.context_tokens += request.input_tokens + request.output_tokens

    def signals(self, seconds: float, backlog_tokens: int, decoding: int) -> Signals:
        """Return the counts with what waits now; the workers are filled in when they are read."""
        return Signals(
            seconds=seconds,
            requests=self.requests,
            input_tokens=self.input_tokens,
            input_tokens_squared=self.input_tokens_squared,
            finished=self.finished,
            finished_output_tokens=self.finished_output_tokens,
            context_tokens=self.context_tokens,
            backlog_tokens=backlog_tokens,
            decoding=decoding,
            prefill=0,
            decode=0,
        )
