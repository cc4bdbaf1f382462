"""What a request needs of the worker while it is prepared."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.bodies import BodyReader
from steelyard_runtime.server.model_text import ModelText
from steelyard_runtime.server.sampling_fields import TokenLimits
from steelyard_runtime.server.settings import ServerSettings
from steelyard_runtime.server.work_threads import WorkThreads
from steelyard_runtime.server.worker_state import WorkerState


@dataclass(slots=True)
class Worker:
    """The HTTP process's parts, put together once. `text` is set when the engine is ready."""

    settings: ServerSettings
    state: WorkerState
    clock_ns: Callable[[], int]
    clock_seconds: Callable[[], float]  # Unix time, for `created`
    draw_bits: Callable[[int], int] = field(default=random.SystemRandom().getrandbits)
    text: ModelText | None = None
    threads: WorkThreads = field(default_factory=WorkThreads)
    bodies: BodyReader = field(init=False)

    def __post_init__(self) -> None:
        """Make the reader of bodies, which all endpoints share."""
        self.bodies = BodyReader(
            self.settings.max_request_bytes,
            self.state.metrics.count_ignored_field,
            self.threads,
        )

    @property
    def limits(self) -> TokenLimits:
        """What bounds token ids and choices."""
        return TokenLimits(self.loaded_text().vocab_size, self.settings.max_num_seqs)

    def loaded_text(self) -> ModelText:
        """Return tokenizer and template.

        Raises:
            RequestError: 503, the worker still loads.
        """
        if self.text is None:
            raise RequestError(
                f"the worker is in phase '{self.state.phase}'; the model is not loaded yet",
                status=503,
                code=f"worker_{self.state.phase}",
                kind="server_error",
                retry_after_seconds=1,
            )
        return self.text

    def check_model(self, name: str | None) -> None:
        """Refuse requests for another model.

        Raises:
            RequestError: 404.
        """
        served = self.settings.served_model_name
        if name is not None and name != served:
            raise RequestError(
                f"the model '{name[:200]}' does not exist; this worker serves '{served}'",
                status=404,
                param="model",
                code="model_not_found",
            )
