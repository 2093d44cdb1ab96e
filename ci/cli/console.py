"""Reports progress on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from typing_extensions import Self


_LINES_APART_S = 30


class ConsoleReporter:
    """Writes to standard error, because standard output holds results only.

    As a context manager it removes its bar when the block ends or fails.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(escape(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line marked as a warning."""
        self._console.print(f"[yellow]farm: warning:[/] {escape(text)}", soft_wrap=True)

    def step(self, done: int, total: int, text: str) -> None:
        """Move the bar; without a terminal, print a line every half minute."""
        if not self._console.is_terminal:
            if time.monotonic() - self._last_line >= _LINES_APART_S and done < total:
                self._last_line = time.monotonic()
                self.say(f"{done} of {total}: {text}")
            return
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(escape(text), total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=escape(text))
        if done >= total:
            self.close()

    def close(self) -> None:
        """Remove the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
