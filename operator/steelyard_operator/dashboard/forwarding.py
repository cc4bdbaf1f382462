"""Ports of routers' pods on this machine, through `kubectl port-forward`.

kubectl and not a client of our own: it speaks to every API server in every way that people have
to sign in.
"""

import asyncio
import contextlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from steelyard_operator.errors import UserError
from steelyard_operator.render import ports

START_SECONDS = 15.0
_FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ")


@dataclass(slots=True)
class Forward:
    """One forwarded port."""

    process: asyncio.subprocess.Process
    url: str

    async def close(self) -> None:
        """End it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        await self.process.wait()


class Forwards:
    """Keeps one forward a router."""

    def __init__(self, namespace: str, context: str | None) -> None:
        """Prepare; nothing is forwarded yet.

        Raises:
            UserError: there is no kubectl.
        """
        self._program = shutil.which("kubectl")
        if self._program is None:
            raise UserError("steelyard dashboard needs kubectl in PATH, to reach the routers")
        self._options = ["--namespace", namespace, *(("--context", context) if context else ())]
        self._open: dict[str, Forward] = {}

    @property
    def urls(self) -> list[str]:
        """Where the routers are reached now."""
        return [each.url for each in self._open.values()]

    async def follow(self, pods: Iterable[str]) -> None:
        """Forward to these pods and no others; a forward that has ended is begun again."""
        wanted = set(pods)
        for name, forward in list(self._open.items()):
            if name not in wanted or forward.process.returncode is not None:
                del self._open[name]
                await forward.close()
        for name in sorted(wanted - self._open.keys()):
            begun = await self._begin(name)
            if begun is not None:
                self._open[name] = begun

    async def close(self) -> None:
        """End all."""
        await self.follow(())

    async def _begin(self, pod: str) -> Forward | None:
        """Forward to a pod, or give up until the next time."""
        assert self._program is not None
        process = await asyncio.create_subprocess_exec(
            *(self._program, *self._options, "port-forward", "--address", "127.0.0.1"),
            *(f"pod/{pod}", f":{ports.ROUTER}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        found = _FORWARDING.match(line)
        if found is None:
            await Forward(process, "").close()
            return None
        return Forward(process, f"http://127.0.0.1:{int(found.group(1))}")
