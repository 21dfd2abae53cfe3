# SPDX-License-Identifier: GPL-2.0-or-later
"""How long work says what it is doing, and how long each step took.

Library code opens a step, advances it and closes it. What is shown of that is decided by
:mod:`livegraft.cli`, which passes a subclass of :class:`Progress`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

WORTH_TELLING = 90.0
"""Seconds of work that is told of before it begins."""


class Step:
    """One running step. ``total`` and :meth:`advance` are in the step's own unit (bytes, files)."""

    def __init__(self, name: str, total: float | None = None) -> None:
        self.name = name
        self.total = total
        self.done = 0.0

    def advance(self, amount: float = 1) -> None:
        """Say that `amount` more of the total is done."""
        self.done += amount

    def say(self, text: str) -> None:
        """Say what the step is at right now (a file name, a line of a build)."""


class Progress:
    """Records the seconds of each step in :attr:`timings`; shows nothing.

    Subclasses show more by overriding :meth:`started`, :meth:`finished` and :meth:`note`.
    """

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Step]:
        """A step of the work; steps of the same name add up."""
        step = self.started(name, total)
        began = time.monotonic()
        try:
            yield step
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - began
            self.finished(step)

    def started(self, name: str, total: float | None) -> Step:
        """A step begins."""
        return Step(name, total)

    def finished(self, step: Step) -> None:
        """A step has ended, well or not."""

    def hidden(self) -> Progress:
        """Shows nothing, and adds to the same :attr:`timings`."""
        silent = Progress()
        silent.timings = self.timings
        return silent

    def note(self, text: str) -> None:
        """Something that a person at the terminal wants to know once."""

    def foretell(self, what: str, count: int, each: float) -> None:
        """Say before long work begins how long it will take.

        Args:
            what: it is.
            count: how many pieces it has, which are worked on by all cores.
            each: seconds that one took alone.
        """
        seconds = count * each / (os.cpu_count() or 2)
        if seconds > WORTH_TELLING:
            self.note(f"{what}: about {seconds / 60:.0f} min")


SILENT = Progress()
"""For callers that show nothing."""
