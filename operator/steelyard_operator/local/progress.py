"""What a person sees of the processes: a live table while they start, one line a change later.

Where standard error is no terminal, there are lines from the beginning.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from steelyard_operator.local.service import View

STYLES = {"ready": "green", "restarting": "yellow", "failed": "red"}


class Progress:
    """Shows the processes; inside the context a live table, where there is a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet."""
        self._console = console
        self._clock = clock
        self._started_at = clock()
        self._views: list[View] = []
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._table, refresh_per_second=10, transient=False
            )

    def show(self, views: list[View]) -> None:
        """Take the newest state of all processes."""
        changed = [view for view in views if view not in self._views]
        self._views = views
        if self._live is None or not self._live.is_started:
            for view in changed:
                self._console.print(
                    f"{self._seconds():6.1f} s  {view.name} ({view.role}): {view.phase}",
                    highlight=False,
                    soft_wrap=True,
                )

    def stop(self) -> None:
        """Leave the table standing; changes are lines from now on."""
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Self:
        """Start to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Stop showing."""
        self.stop()

    def _seconds(self) -> float:
        return self._clock() - self._started_at

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for view in self._views:
            style = STYLES.get(view.phase, "cyan")
            mark = Text("✔", style) if view.phase == "ready" else Spinner("dots", style=style)
            table.add_row(mark, view.name, view.role, Text(view.phase, style))
        table.add_row("", f"{self._seconds():.1f} s")
        return table
