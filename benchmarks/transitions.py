# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: how long transitions take, with early kicks and without, under three loads.

Usage: ``-m benchmarks.transitions PATCH.ko ROUNDS``; prints one JSON document. Standard library and
:mod:`livegraft.runtime` only. With and without kicks alternate within each load, so that whatever
disturbs the machine disturbs both. What ftrace needs to take the redirection out is measured
beside, with probes on the kernel's functions.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.others import load_of
from livegraft import runtime

DEBUG = Path("/proc/dynamic_debug/control")

TRACING = Path("/sys/kernel/tracing")

BEGIN, END = "livegraft_begin", "livegraft_end"
PROBES = f"p:{BEGIN} klp_unpatch_objects\nr:{END} text_poke_finish\n"
"""From the order to ftrace until the function's code is changed back. For that it goes several
times over all functions of the kernel (kernel/trace/ftrace.c, ``__ftrace_hash_rec_update``;
arch/x86/kernel/ftrace.c, ``ftrace_replace_code``); grace periods come after it. The probes are two
more users of ftrace, so it is as much as without them or a little more."""

STAMP = re.compile(rf" (\d+\.\d+): ({BEGIN}|{END}):")

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
    walks = [_walk_ms(patch) for _ in range(rounds)]
    json.dump({"samples": samples, "walks": walks}, sys.stdout)


def _walk_ms(patch: Path) -> float:
    """Milliseconds that ftrace takes to change the code back when a patch is undone."""
    (TRACING / "kprobe_events").write_text(PROBES)
    enable = TRACING / "events/kprobes/enable"
    try:
        loaded = runtime.load(patch)
        (TRACING / "trace").write_text("")
        enable.write_text("1")
        runtime.unload(loaded.name)
        enable.write_text("0")
        seen = [STAMP.search(each) for each in (TRACING / "trace").read_text().splitlines()]
    finally:
        enable.write_text("0")
        (TRACING / "kprobe_events").write_text("\n")
    found = [(each[2], float(each[1])) for each in seen if each]
    first = next(number for number, (name, _) in enumerate(found) if name == BEGIN)
    last = next(seconds for name, seconds in found[first:] if name == END)
    return (last - found[first][1]) * 1000


if __name__ == "__main__":
    main()
