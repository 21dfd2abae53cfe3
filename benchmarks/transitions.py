# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: how long transitions take, with early kicks and without, under three loads.

Usage: ``transitions.py PATCH.ko ROUNDS``; prints one JSON document. Standard library and
:mod:`livegraft.runtime` only. With and without kicks alternate within each load, so that whatever
disturbs the machine disturbs both.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from livegraft import runtime

DEBUG = Path("/proc/dynamic_debug/control")

LOADS = {"idle": (0, 0), "300 sleepers": (300, 0), "300 sleepers, 4 busy": (300, 4)}
"""Name of the load -> processes that sleep, processes that compute."""


@contextmanager
def load_of(sleepers: int, busy: int) -> Iterator[None]:
    """Processes that sleep or compute for as long as the context lasts."""
    children = [_child(busy=False) for _ in range(sleepers)]
    children += [_child(busy=True) for _ in range(busy)]
    time.sleep(1.0 if children else 0.1)
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _child(*, busy: bool) -> int:
    child = os.fork()
    if child:
        return child
    while busy:
        pass
    while True:
        time.sleep(1000)


def main() -> None:
    """Measure and print."""
    patch, rounds = Path(sys.argv[1]), int(sys.argv[2])
    # Makes the core say when the last task has changed sides, before it unregisters with ftrace.
    DEBUG.write_text("func klp_complete_transition +p")
    samples = []
    for name, (sleepers, busy) in LOADS.items():
        with load_of(sleepers, busy):
            for number in range(rounds):
                for kicks in (True, False):
                    loaded = runtime.load(patch, kicks=kicks)
                    unloaded = runtime.unload(loaded.name, kicks=kicks)
                    samples.append(
                        {
                            "load": name,
                            "kicks": kicks,
                            "round": number,
                            "apply_ms": loaded.transition_ms,
                            "undo_ms": unloaded.transition_ms,
                            "apply_tasks_ms": loaded.tasks_ms,
                            "undo_tasks_ms": unloaded.tasks_ms,
                            "call_ms": loaded.call_ms,
                            "apply_kicks": loaded.kicks,
                            "undo_kicks": unloaded.kicks,
                        }
                    )
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main()
