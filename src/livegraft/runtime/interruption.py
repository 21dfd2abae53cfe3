# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that end a program, while a live patch is half applied.

An operation that is interrupted is undone before the program ends. A lost terminal (SIGHUP) and a
service manager's stop (SIGTERM) have to come as the same exception that Ctrl-C is, or nothing would
be undone; and the undoing itself must not be interrupted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Turn every signal that ends a program into KeyboardInterrupt. For a program's main thread."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A second one must not come before the undoing that the first one starts.
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal interrupt what has to be completed. Outside of the main thread none would."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that end a program wait until what is inside is done; they come then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Both calls raise for a signal that has come, after they have changed the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        # nohup(1) has its reason: what is ignored stays ignored
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
