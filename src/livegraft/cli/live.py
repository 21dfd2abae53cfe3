# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars on a terminal's standard error, for the verbs that make something."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from livegraft.cli.progress import LONG, Shown, TimedStep
from livegraft.progress import Step

BYTES = 1_000_000
"""A total from here on is one of bytes: no step has as many files or units."""


class Lossy:
    """A stream that a lost terminal, or a reader that is gone, does not make fail.

    Args:
        stream: the real one.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Bars(Shown):
    """A live line for each running step; a finished one leaves a line with its seconds.

    Args:
        colour: whether to colour them; ``NO_COLOR`` in the environment means no in any case.
    """

    def __init__(self, *, colour: bool = True) -> None:
        super().__init__()
        # None lets the library look at the environment itself.
        self.console = Console(
            file=cast(IO[str], Lossy(sys.stderr)),
            highlight=False,
            no_color=None if colour else True,
        )
        self._display = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            Known(BarColumn(bar_width=24)),
            Counted(),
            TimeElapsedColumn(),
            Known(TimeRemainingColumn(compact=True)),
            TextColumn("[dim]{task.fields[saying]}"),
            console=self.console,
            transient=True,
            redirect_stdout=False,
        )

    def started(self, name: str, total: float | None) -> Step:
        self._display.start()
        return BarStep(self._display, name, total)

    def finished(self, step: Step) -> None:
        assert isinstance(step, BarStep)
        self._display.remove_task(step.task)
        seconds = time.monotonic() - step.began
        if step.failed():
            self.console.print(f"[red]x[/] {escape(step.name)}  [dim]{seconds:.1f} s[/]")
        elif seconds >= LONG:
            self.console.print(f"[green]+[/] {escape(step.name)}  [dim]{seconds:.1f} s[/]")

    def note(self, text: str) -> None:
        self.console.print(escape(text))

    def close(self) -> None:
        self._display.stop()


class BarStep(TimedStep):
    """A step with a bar."""

    def __init__(self, display: RichProgress, name: str, total: float | None) -> None:
        super().__init__(name, total)
        self._display = display
        self.task: TaskID = display.add_task(escape(name), total=total, saying="")

    def advance(self, amount: float = 1) -> None:
        super().advance(amount)
        self._display.update(self.task, advance=amount, total=self.total)

    def say(self, text: str) -> None:
        self._display.update(self.task, saying=escape(text[:60]))


class Known(ProgressColumn):
    """A column that is empty while the step's total is unknown."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self.column = column

    def render(self, task: Task) -> Text:
        return self.column(task) if task.total else Text()  # type: ignore[return-value]


class Counted(ProgressColumn):
    """Bytes of bytes, or pieces of pieces."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        if not task.total:
            return Text()
        if task.total >= BYTES:
            return self._bytes.render(task)
        return Text(f"{task.completed:.0f}/{task.total:.0f}", style="progress.download")
