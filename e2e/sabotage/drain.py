"""Sabotage of the worker: whoever asks it to drain hears yes, and SIGTERM ends it at once."""

import sys

if any("steelyard-runtime" in argument for argument in sys.orig_argv):
    from steelyard_runtime.server import worker_process, worker_state

    async def _drain(self, arguments):
        return self.snapshot()

    async def _end_at_once(self):
        return None

    worker_state.WorkerState.drain = _drain
    for value in vars(worker_process).values():
        if isinstance(value, type) and "_drain" in vars(value):
            value._drain = _end_at_once
