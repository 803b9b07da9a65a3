"""Progress for people: one bar per phase with the time left; silent where a program reads the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressReporter(Protocol):
    """What long work tells about itself."""

    def start(self, phase: str, total: int) -> None:
        """A phase of ``total`` steps begins; the one before it is over."""

    def step(self, note: str = "") -> None:
        """One step of the phase is done."""

    def say(self, text: str) -> None:
        """A line worth keeping."""


class Silent:
    """Reports nothing."""

    def start(self, phase: str, total: int) -> None:
        pass

    def step(self, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass


class RichProgress:
    """Bars on standard error; plain lines where standard error is no terminal."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self._console = console
        self._bars = bars
        self._task: TaskID | None = None
        self._phase = ""
        self._total = 0
        self._done = 0

    def start(self, phase: str, total: int) -> None:
        self._close()
        self._phase, self._total, self._done = phase, total, 0
        if self._console.is_terminal:
            self._task = self._bars.add_task(phase, total=total)
        else:
            self._console.print(f"{phase}: {total} steps", highlight=False)

    def step(self, note: str = "") -> None:
        self._done += 1
        if self._task is not None:
            text = f"{self._phase} [dim]{note}" if note else self._phase
            self._bars.update(self._task, advance=1, description=text)
        elif self._total <= 50 or self._done == self._total or self._done % 25 == 0:
            self._console.print(
                f"{self._phase} {self._done}/{self._total} {note}".rstrip(),
                highlight=False,
                markup=False,
            )

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def _close(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=self._total)
            self._task = None


@contextmanager
def progress_for(silent: bool) -> Iterator[ProgressReporter]:
    """A reporter for the length of one command."""
    if silent:
        yield Silent()
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield RichProgress(console, bars)
