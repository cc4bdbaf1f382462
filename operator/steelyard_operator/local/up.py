"""`steelyard up FILE`: a service on this machine, from the file to the last process' end."""

import asyncio
import json
import os
import random
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from steelyard_operator.api.load import load
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.native import EXECUTABLE
from steelyard_operator.errors import UserError
from steelyard_operator.local.answer import ask
from steelyard_operator.local.balancing import LocalBalancing, can_balance
from steelyard_operator.local.desired import (
    PORTS_PER_WORKER,
    Addresses,
    Desired,
    desired,
    require_local,
    worker_count,
)
from steelyard_operator.local.environment import require_allowed_variables, require_own_addresses
from steelyard_operator.local.interruption import Interrupted, Interruptions
from steelyard_operator.local.live_page import live_page, time_of_day
from steelyard_operator.local.machine import available_cores, find_executable
from steelyard_operator.local.membership import MembershipFile
from steelyard_operator.local.observing import observe_router
from steelyard_operator.local.parent_pipe import ParentPipe
from steelyard_operator.local.ports import HOST, free_ports, require_free
from steelyard_operator.local.processes import ProcessTable
from steelyard_operator.local.progress import Progress
from steelyard_operator.local.report import as_json, as_lines, curl
from steelyard_operator.local.scratch import Scratch
from steelyard_operator.local.service import LocalService, View

DEFAULT_PORT = 8080
OWN_VARIABLES = "STEELYARD_"
NOTES_KEPT = 50


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    file: Path
    prompt: str | None = None
    port: int | None = None  # None: DEFAULT_PORT, or any free one where only a prompt is answered
    json: bool = False
    verbose: bool = False
    max_tokens: int = 256
    page_port: int = 0  # of the live page; 0 is any free one
    runtime: tuple[str, ...] = field(default=())  # what to run for `steelyard-runtime`; () finds it


def up(options: Options) -> int:
    """Run a service until its prompt is answered or a signal arrives; returns the exit code.

    Raises:
        UserError: the file, a port or the model is wrong.
        OperatorError: the service failed.
    """
    service = read_service(options.file)
    require_local(service, str(options.file))
    require_allowed_variables(service, str(options.file))
    require_own_addresses(service, str(options.file))
    runtime = options.runtime or (find_executable(EXECUTABLE),)
    port = _router_port(options)
    with Scratch() as scratch, ParentPipe() as pipe:
        token = secrets.token_hex(32)
        addresses = Addresses(
            host=HOST,
            router_port=port,
            worker_ports=free_ports(PORTS_PER_WORKER * worker_count(service), _choice()),
            token_file=scratch.write_secret("service-token", token),
            membership_file=scratch.path / "membership.json",
        )
        # Sockets and half-written files of the processes go when the scratch directory goes.
        environment = _environment(os.environ, scratch.directory("tmp"))
        wanted = desired(service, addresses, cores=available_cores())
        run = _Run(options, service, wanted, runtime, token, environment)
        return asyncio.run(run.run(pipe, addresses))


def read_service(file: Path) -> InferenceService:
    """Return the service that a file describes.

    Raises:
        UserError: the file cannot be read, or what it says is wrong.
    """
    try:
        return load(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: must be UTF-8 text") from None


def _router_port(options: Options) -> int:
    port = options.port
    if port is None and options.prompt is None:
        port = DEFAULT_PORT
    if not port:
        return free_ports(1, _choice())[0]
    require_free(port)
    return port


def _choice() -> random.Random:
    return random.Random(secrets.randbits(64))  # noqa: S311 - spreads runs over ports, no secret


def _environment(inherited: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Ours without Steelyard's variables: a key meant for another service must not reach this.

    A folder that happens to be the current one lends no modules to the processes: `python -m` would
    look there first. PYTHONPATH stays, it is the person's own.
    """
    kept = {n: value for n, value in inherited.items() if not n.startswith(OWN_VARIABLES)}
    return {**kept, "TMPDIR": str(temporary), "PYTHONSAFEPATH": "1"}


@dataclass(slots=True)
class _Run:
    """The part of `up` inside the event loop."""

    options: Options
    service: InferenceService
    wanted: Desired
    runtime: tuple[str, ...]
    token: str
    environment: Mapping[str, str]
    console: Console = field(default_factory=lambda: Console(stderr=True))
    views: list[View] = field(default_factory=list)  # of all processes, after the last pass
    notes: list[tuple[str, str]] = field(default_factory=list)  # decisions of the balance

    async def run(self, pipe: ParentPipe, addresses: Addresses) -> int:
        interruptions = Interruptions()
        on_line = self._echo if self.options.verbose else lambda _name, _line: None
        table = ProcessTable(pipe, clock=time.monotonic, on_line=on_line)
        progress = Progress(self.console)
        service = LocalService(
            self.wanted,
            table,
            MembershipFile(addresses.membership_file),
            token=self.token,
            executables={EXECUTABLE: self.runtime},
            environment=self.environment,
            on_view=lambda views: self._see(views, progress),
        )
        try:
            return await interruptions.unless_interrupted(self._serve(service, progress))
        except Interrupted as interrupted:
            self.console.print("stopping; Ctrl-C again ends it at once")
            serving = service.ready.is_set() and self.options.prompt is None
            return 0 if serving else interrupted.exit_code
        finally:
            progress.stop()
            # A second signal, or no hope: whatever is left ends at once.
            with suppress(Interrupted):
                await interruptions.unless_interrupted(service.stop())
            await table.kill_all()

    async def _serve(self, service: LocalService, progress: Progress) -> int:
        loop = asyncio.create_task(service.run())
        try:
            with progress:
                await _first(loop, asyncio.create_task(service.ready.wait()))
            if self.options.prompt is None:
                async with live_page(
                    self.service,
                    self.wanted.url,
                    self.options.page_port,
                    views=lambda: self.views,
                    notes=lambda: self.notes,
                ) as page:
                    self._announce(page)
                    await self._keep_serving(loop)
            else:
                self._announce(None)
                await _first(loop, asyncio.create_task(self._answer(self.options.prompt)))
        finally:
            loop.cancel()
            await asyncio.wait((loop,))
        return 0

    async def _keep_serving(self, loop: "asyncio.Task[None]") -> None:
        if not can_balance(self.service):
            await loop
            return
        balancing = LocalBalancing(
            self.service, self.wanted, token=self.token, tell=self._tell_decision
        )
        await _first(loop, asyncio.create_task(balancing.run()))

    def _tell_decision(self, text: str) -> None:
        self.notes = [*self.notes, (time_of_day(), text)][-NOTES_KEPT:]
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _see(self, views: list[View], progress: Progress) -> None:
        self.views = views
        progress.show(views)

    def _announce(self, page: str | None) -> None:
        url, model = self.wanted.url, self.wanted.model
        to_people = self.console
        if self.options.prompt is None:
            if self.options.json:
                _print(json.dumps({"url": url, "model": model, "page": page}))
                return
            to_people = Console(soft_wrap=True)
        lines = [f"{model} is ready at {url}", curl(url, model), ""]
        if page is not None:
            lines.insert(-1, f"live page: {page}")
        if self.options.prompt is None:
            lines.insert(-1, "Ctrl-C stops it.")
        to_people.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

    async def _answer(self, prompt: str) -> None:
        quiet = self.options.json
        answer = await ask(
            self.wanted.url,
            model=self.wanted.model,
            prompt=prompt,
            max_tokens=self.options.max_tokens,
            on_text=(lambda _text: None) if quiet else (lambda text: _print(text, end="")),
            clock=time.monotonic,
        )
        url, model, price = self.wanted.url, self.wanted.model, self.wanted.price
        router = await observe_router(url)
        if quiet:
            _print(json.dumps(as_json(answer, url=url, model=model, price=price, router=router)))
        else:
            _print("\n\n" + "\n".join(as_lines(answer, price, router)))

    def _echo(self, name: str, line: str) -> None:
        self.console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)


def _print(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


async def _first(loop: "asyncio.Task[None]", work: "asyncio.Task[object]") -> None:
    """Wait for `work`; a loop that ends before it ends with an error, which is raised."""
    try:
        await asyncio.wait((loop, work), return_when=asyncio.FIRST_COMPLETED)
        if loop.done():
            await loop
        await work
    finally:
        work.cancel()
        await asyncio.wait((work,))
