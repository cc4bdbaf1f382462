"""`steelyard-runtime serve`: one worker, the HTTP process in front of its engine process."""

import asyncio
import logging
import os
from collections.abc import Sequence

import uvloop

from steelyard_runtime import logs
from steelyard_runtime.parent_pipe import exit_with_parent
from steelyard_runtime.server import flags
from steelyard_runtime.server.connections import raise_file_limit
from steelyard_runtime.server.engine_process import ENGINE_COMMAND
from steelyard_runtime.server.worker_process import INTERRUPTED, WorkerProcess
from steelyard_runtime.tokenization.parsers.registry import check_parser_names


def main(arguments: Sequence[str], *, engine_command: Sequence[str] = ENGINE_COMMAND) -> int:
    """Parse flags and run until a signal; returns the exit code.

    Raises:
        ConfigError: a flag, a file, the environment or the checkpoint is wrong.
    """
    settings, config = flags.parse(arguments, os.environ)
    check_parser_names(settings.tool_call_parser, settings.reasoning_parser)
    logs.configure(settings.log_level)
    # A warning for each request that is no HTTP would let strangers fill the log.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    raise_file_limit()
    exit_with_parent(os.environ)

    async def run() -> int:
        return await WorkerProcess(settings, config, engine_command, os.environ).run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())
    except KeyboardInterrupt:
        return INTERRUPTED
