# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: processes that are there while something is measured."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_AGAIN = b"\xf3\x90\xeb\xfc"
"""``1: pause; jmp 1b`` of x86-64."""


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


def _compute() -> None:
    """In user mode and nowhere else. One emulated processor runs at a time, a tenth of a second if
    nothing hands over; PAUSE does (lab/witness/lgc_processors.h)."""
    code = mmap.mmap(-1, len(PAUSE_AGAIN), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(PAUSE_AGAIN)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def _sleep() -> None:
    while True:
        time.sleep(1000)
