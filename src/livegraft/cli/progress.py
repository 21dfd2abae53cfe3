# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shown of the steps: nothing, plain lines, or (:mod:`livegraft.cli.live`) bars."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

from livegraft.progress import Progress, Step

LONG = 0.5
"""Seconds after which a step is worth a line of its own."""

TICK = 10.0
"""Seconds between two lines of one long step, where no terminal shows a bar."""


WORTH_TELLING = 90.0
"""Seconds that a step still takes from which on they are told, where no terminal shows a bar."""


class Shown(Progress):
    """Progress that is shown somewhere, and has to be put away at the end."""

    def close(self) -> None:
        """Put away what is still on the screen."""


class TimedStep(Step):
    """A step that knows when it began, and at its end whether an exception ended it."""

    def __init__(self, name: str, total: float | None) -> None:
        super().__init__(name, total)
        self.began = time.monotonic()
        # A step may begin while another exception is being handled.
        self._handled = sys.exc_info()[1]

    def failed(self) -> bool:
        """Whether an exception that came up in the step is on its way."""
        return sys.exc_info()[1] is not self._handled


class PlainLines(Shown):
    """Lines for a log file or a pipe: ``download linux-image ... done in 3.2 s``.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self.stream = stream or sys.stderr
        self._lock = threading.Lock()

    def started(self, name: str, total: float | None) -> Step:
        self._line(f"{name} ...")
        return LineStep(self, name, total)

    def finished(self, step: Step) -> None:
        assert isinstance(step, LineStep)
        seconds = time.monotonic() - step.began
        # The line of its beginning says enough of a step that was over at once.
        if seconds < LONG:
            return
        how = "failed after" if step.failed() else "done in"
        self._line(f"{step.name} ... {how} {seconds:.1f} s")

    def note(self, text: str) -> None:
        self._line(text)

    def still(self, step: LineStep) -> None:
        """Say how far a long step has come."""
        assert step.total
        part = min(step.done / step.total, 1)
        left = (time.monotonic() - step.began) * (1 - part) / part if part else 0.0
        # Short steps are over before anybody has read how long they will take.
        more = f", {left / 60:.0f} min left" if left > WORTH_TELLING else ""
        self._line(f"{step.name} ... {part:.0%}{more}")

    def _line(self, text: str) -> None:
        # A terminal that is lost, or a reader that is gone, must not stop the work (nor its undo).
        with self._lock, suppress(OSError, ValueError):
            print(text, file=self.stream, flush=True)


class LineStep(TimedStep):
    """A step that says every :data:`TICK` seconds how far it has come."""

    def __init__(self, lines: PlainLines, name: str, total: float | None) -> None:
        super().__init__(name, total)
        self._said = self.began
        self._lines = lines

    def advance(self, amount: float = 1) -> None:
        super().advance(amount)
        now = time.monotonic()
        if self.total and now - self._said >= TICK:
            self._said = now
            self._lines.still(self)


def shown(*, quiet: bool, verbose: bool, may_draw: bool, colour: bool = True) -> Shown:
    """The progress that fits the standard error stream.

    Args:
        quiet: show nothing.
        verbose: commands are logged to the same stream, so bars would be torn.
        may_draw: whether the verb may import what draws bars (runtime verbs may not).
        colour: whether bars may be coloured.
    """
    if quiet:
        return Shown()
    if may_draw and not verbose and sys.stderr.isatty():
        from livegraft.cli.live import Bars

        return Bars(colour=colour)
    return PlainLines()
