# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: how long transitions take, with early kicks and without, under three loads.

Usage: ``-m benchmarks.transitions PATCH.ko ROUNDS``; prints one JSON document. Standard library and
:mod:`livegraft.runtime` only. With and without kicks alternate within each load, so that whatever
disturbs the machine disturbs both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.others import load_of
from livegraft import runtime

DEBUG = Path("/proc/dynamic_debug/control")

LOADS = {"idle": (0, 0), "300 sleepers": (300, 0), "300 sleepers, 4 busy": (300, 4)}
"""Name of the load -> processes that sleep, processes that compute."""


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
