"""An operator that ends, or waits, at the k-th request that changes something.

Run as `python -m steelyard_operator.testing.dying operator`. The requests are counted, renewals of
the Lease and events apart, for as long as the file `$STEELYARD_DYING_FILE` is there. It says what
happens at which: `before 3` and `after 3` end the process, `pause 3` makes the file `.paused`
beside it and waits until that is removed.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp

from steelyard_operator.cli import main

CHANGES = ("POST", "PUT", "PATCH", "DELETE")
UNCOUNTED = ("/leases", "/events")
KILLED = 137


class Arms:
    """What the file says, and how far the count is."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._paused = file.with_suffix(".paused")
        self._counted = 0

    def next(self, method: str, url: str) -> str:
        """Count a request; returns what happens at it, or an empty string."""
        if method not in CHANGES or any(part in url for part in UNCOUNTED):
            return ""
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            text = ""
        if not text:  # none, or the test is about to write it
            self._counted = 0
            return ""
        self._counted += 1
        what, at = text.split()
        return what if self._counted == int(at) else ""

    async def pause(self) -> None:
        """Wait until the test has done what it does here."""
        self._paused.touch()
        while self._paused.exists():  # noqa: ASYNC110  # another process removes it
            await asyncio.sleep(0.01)


def arm(arms: Arms) -> None:
    """Make every HTTP request of this process count."""
    send = aiohttp.ClientSession._request

    async def request(
        session: aiohttp.ClientSession, method: str, url: Any, **options: Any
    ) -> aiohttp.ClientResponse:
        what = arms.next(method, str(url))
        if what == "before":
            os._exit(KILLED)
        if what == "pause":
            await arms.pause()
        answer = await send(session, method, url, **options)
        if what == "after":
            os._exit(KILLED)
        return answer

    aiohttp.ClientSession._request = request  # type: ignore[assignment,method-assign]  # as above


if __name__ == "__main__":
    arm(Arms(Path(os.environ["STEELYARD_DYING_FILE"])))
    sys.exit(main())
