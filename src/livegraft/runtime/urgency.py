# SPDX-License-Identifier: GPL-2.0-or-later
"""A change goes before what else wants the processors: the sooner it is over the better."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FIRST = -20
"""The nice value of those who go before all others (sched(7)). Without CAP_SYS_NICE, and where a
unit has the call refused, it stays what it was."""


@contextmanager
def urgently() -> Iterator[None]:
    """Let the calling thread, and threads that it starts, go before others for so long.

    It works for milliseconds: beside tasks that compute it would wait ten times as long as it
    works. While it waits for others' transition it sleeps, and takes nothing from them.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
