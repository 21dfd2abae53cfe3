# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: processes that are there while something is measured."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def load_of(sleepers: int, busy: int) -> Iterator[None]:
    """Processes that sleep or compute for as long as the context lasts."""
    children = [started(_sleep) for _ in range(sleepers)]
    children += [started(_compute) for _ in range(busy)]
    time.sleep(1.0 if children else 0.1)
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def started(work: Callable[[], None]) -> int:
    """A child that does nothing but that; its process ID."""
    child = os.fork()
    if not child:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, 0)  # whoever measures may go before all others
            work()
        finally:
            os._exit(0)
    return child


def longest_gaps(count: int, seconds: float, meanwhile: Callable[[], object]) -> list[float]:
    """How long tasks that always want to run did not, at most, while something was done.

    Args:
        count: how many such tasks.
        seconds: for how long they run; `meanwhile` begins after a tenth of that.
        meanwhile: what is done.

    Returns:
        The longest gap of each, milliseconds.
    """
    ends, begin = [], time.monotonic()
    children = []
    for _ in range(count):
        reading, writing = os.pipe()

        def work(writing: int = writing) -> None:
            os.write(writing, f"{_longest_gap(begin + seconds)}".encode())

        children.append(started(work))
        os.close(writing)
        ends.append(reading)
    time.sleep(seconds / 10)
    meanwhile()
    gaps = []
    for reading in ends:
        with os.fdopen(reading) as pipe:
            gaps.append(float(pipe.read()))
    for child in children:
        os.waitpid(child, 0)
    return gaps


def _longest_gap(end: float) -> float:
    """Milliseconds between two looks at the clock, at most, from the first look on."""
    longest, last = 0.0, time.monotonic()
    while last < end:
        now = time.monotonic()
        longest = max(longest, now - last)
        last = now
    return longest * 1000


def _compute() -> None:
    while True:
        pass


def _sleep() -> None:
    while True:
        time.sleep(1000)
