"""The life of a worker's HTTP process: start, serve, drain, end.

Exit codes: 0 drained, 2 wrong input, 3 the engine died, 130 interrupted.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from steelyard_runtime.checkpoint_files.architectures import check_architecture
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.config import EngineConfig
from steelyard_runtime.errors import ConfigError, EngineDeadError, RequestError
from steelyard_runtime.server.engine_process import EngineProcess
from steelyard_runtime.server.model_text import ModelText
from steelyard_runtime.server.settings import ServerSettings
from steelyard_runtime.server.template_renderer import TemplateRenderer
from steelyard_runtime.server.worker_parts import bind_ports, put_together
from steelyard_runtime.tokenization.loading import load_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer

log = logging.getLogger(__name__)

DRAINED, ENGINE_DIED, INTERRUPTED = 0, 3, 130
DRAIN_POLL_SECONDS = 0.05
# How long answers about a dead engine may take to leave, and probes have to see it.
LAST_WORDS_SECONDS = 0.5
LAST_ANSWERS_SECONDS = 5.0
ENGINE_END_SECONDS = 2.0


class WorkerProcess:
    """One worker. `run` returns its exit code."""

    def __init__(
        self,
        settings: ServerSettings,
        config: EngineConfig,
        engine_command: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """Bind both ports and start the engine process.

        Raises:
            ConfigError: a port is in use.
        """
        self._settings = settings
        self._config = config
        ports = bind_ports(settings)
        log_level = {"STEELYARD_LOG_LEVEL": settings.log_level}
        self._process = EngineProcess(engine_command, {**environment, **log_level})
        parts = put_together(settings, self._process.sock, config.role, ports)
        self._client, self._state = parts.client, parts.state
        self._worker, self._servers = parts.worker, parts.servers
        self._templates: TemplateRenderer | None = None
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self) -> int:
        """Serve until a signal or the engine's end.

        Raises:
            ConfigError: the checkpoint or the configuration is wrong.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        for server in self._servers:
            await server.open()
        ports = {"port": self._servers[0].port, "admin_port": self._servers[1].port}
        log.info("listening", extra={"fields": {"host": self._settings.host, **ports}})
        serving = asyncio.create_task(self._serve())
        signalled = asyncio.create_task(self._signals.get())
        try:
            await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                return serving.result()
            return await self._on_signal(signalled.result(), serving)
        finally:
            serving.cancel()
            signalled.cancel()
            await self._end()

    async def _serve(self) -> int:
        """Load, open the gate, and return when the engine is gone."""
        tokenizer = await asyncio.to_thread(self._load_tokenizer)
        templates = TemplateRenderer(tokenizer.chat_templates, tokenizer.special_tokens)
        self._templates = templates
        in_force = tokenizer.chat_templates.get("default")
        config = msgspec.structs.replace(self._config, chat_template=in_force)
        frames = asyncio.create_task(self._client.run(config))
        # The engine loads meanwhile.
        await templates.start()
        await self._client.started.wait()
        ready = self._client.ready
        if ready is None:
            return await self._failed_start()
        self._worker.text = ModelText(
            tokenizer,
            templates,
            ready.max_model_len,
            ready.vocab_size,
            self._worker.threads,
        )
        self._state.open(ready)
        fields = {"engine_id": ready.engine_id, "fingerprint": ready.fingerprint}
        log.info("ready", extra={"fields": {**fields, "num_blocks": ready.num_blocks}})
        await frames
        return await self._after_death()

    def _load_tokenizer(self) -> Tokenizer:
        path = resolve(self._settings.model)
        check_architecture(path)
        return load_tokenizer(path, self._settings.chat_template)

    async def _failed_start(self) -> int:
        failure = self._client.failure
        if failure is not None and self._client.wrong_input:
            raise ConfigError(failure)
        code = await self._process.exit_code(ENGINE_END_SECONDS)
        message = failure or f"the engine process ended with code {code} while it was loading"
        sys.stderr.write(f"steelyard-runtime: {message}\n")
        return ENGINE_DIED

    async def _after_death(self) -> int:
        code = await self._process.exit_code(ENGINE_END_SECONDS)
        log.error(
            "the engine process ended",
            extra={"fields": {"code": code, "reason": self._client.failure}},
        )
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        await asyncio.sleep(LAST_WORDS_SECONDS)
        while self._state.open_requests and time.monotonic() < deadline:  # noqa: ASYNC110  # as below
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        return ENGINE_DIED

    async def _on_signal(self, number: signal.Signals, serving: asyncio.Task[int]) -> int:
        if number == signal.SIGINT:
            return INTERRUPTED
        log.info("draining", extra={"fields": {"seconds": self._settings.drain_timeout_seconds}})
        again = asyncio.create_task(self._signals.get())
        draining = asyncio.create_task(self._drain())
        await asyncio.wait({again, draining, serving}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        draining.cancel()
        if serving.done():
            return serving.result()
        return DRAINED if draining.done() and not draining.cancelled() else INTERRUPTED

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._settings.drain_timeout_seconds
        await self._finish_requests()
        state, linger_seconds = self._state, self._settings.linger_seconds
        while (  # noqa: ASYNC110  # uvicorn tells nobody when a connection closes
            self._servers[0].has_connections
            and state.leaving.silent_seconds() < linger_seconds
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def _finish_requests(self) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_timeout_seconds):
                await self._state.begin_shutdown()
                # What is waited for is another process's state: nothing here could be awaited.
                while (state := await self._state.refresh())["inFlight"]:  # noqa: ASYNC110
                    await asyncio.sleep(DRAIN_POLL_SECONDS)
                log.info("drained", extra={"fields": {"phase": state["phase"]}})
        except TimeoutError:
            left = self._state.snapshot()["inFlight"]
            log.warning("drain timed out", extra={"fields": {"in_flight": left}})
        except (EngineDeadError, RequestError) as error:
            log.warning("drain failed", extra={"fields": {"error": str(error)}})

    async def _end(self) -> None:
        self._client.shut_down()
        if self._templates is not None:
            self._templates.close()
        await asyncio.gather(*(server.close() for server in self._servers))
        await self._process.exit_code(ENGINE_END_SECONDS)
        self._process.kill()
