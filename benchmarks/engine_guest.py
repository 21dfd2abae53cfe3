# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: what the engine's models cost, with the kernel's own core beside them.

Usage: ``-m benchmarks.engine_guest ROUNDS SLEEPERS NAME``. NAME is the sample fix's module;
``livegraft_many`` and the modules of ``livegraft/lab/witness`` are in /ko, and the engine and
``lgb_target`` are loaded. Prints one JSON document; what is being done goes to stderr. Modules are
loaded by the system call and watched in sysfs, for this measures the kernel: nobody kicks it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.others import load_of
from livegraft.lab.witness.driver import Patch, insert, remove
from livegraft.lab.witness.measure import Probe, call_costs, longest
from livegraft.runtime.urgency import FIRST

MODELS = ("hybrid", "stop", "task")
NATIVE_SECONDS = 90.0
"""The kernel's core takes seconds for each: none begins once those before it have taken so long."""
WINDOW = 3.0
"""Seconds in which gaps are looked for, at least."""


def times(patch: Patch) -> dict[str, int]:
    """What the engine measured itself, microseconds; nothing from the kernel's core."""
    if patch.model == "native":
        return {}
    pairs = (line.split() for line in patch.read("times").splitlines())
    return {name: int(value) for name, value in pairs}


def settled(patch: Patch, began: float) -> float:
    """Wait until no task is changing sides; milliseconds since then."""
    with suppress(OSError):
        while patch.changing:
            time.sleep(0.0002)
    return (time.monotonic() - began) * 1000


def cycle(name: str, model: str) -> dict[str, Any]:
    """Load and unload once."""
    patch = Patch(name, model)
    began = time.monotonic()
    patch.insert()
    sample: dict[str, Any] = {"model": model, "call_ms": settled(patch, began)}
    sample["apply"] = times(patch)
    began = time.monotonic()
    patch.write("enabled", "0")
    sample["undo_ms"] = settled(patch, began)
    sample["undo"] = times(patch)
    while patch.folder.exists():
        time.sleep(0.001)
    sample["unloadable_ms"] = (time.monotonic() - began) * 1000
    patch.gone()
    return sample


def cycles(name: str, rounds: int, *, native: bool = False) -> list[dict[str, Any]]:
    """Every model in turn, the kernel's own core as long as there is time."""
    found, spent = [], 0.0
    for _ in range(rounds):
        found += [cycle(name, model) for model in MODELS]
        if native and spent < NATIVE_SECONDS:
            began = time.monotonic()
            found.append(cycle(name, "native"))
            spent += time.monotonic() - began
    return found


def costs(rounds: int) -> dict[str, float]:
    """Nanoseconds of one call, unpatched and under each model: the least of some."""
    found = {model: call_costs(model, range(rounds)) for model in (*MODELS, "native")}
    plain = min(min(each["plain"]) for each in found.values())
    return {"plain": plain} | {model: min(each["patched"]) for model, each in found.items()}


def gaps(name: str, rounds: int, models: Sequence[str]) -> dict[str, list[float]]:
    """The longest gap of any processor's probe, in each round: without a patch, and with one."""

    def ordinary() -> None:
        insert("lgb_plain")
        remove("lgb_plain")

    ways: dict[str, Callable[[], object]] = {"nothing": lambda: None, "module": ordinary} | {
        model: partial(cycle, name, model) for model in models
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, meanwhile in ways.items():
            probe, began = Probe(), time.monotonic()
            time.sleep(WINDOW / 10)
            meanwhile()
            time.sleep(max(0.0, began + WINDOW - time.monotonic()))
            span = longest(probe.gaps(), began, time.monotonic())
            found[way].append(max(span["user"], span["syscall"]))
    return found


def fits(samples: list[dict[str, Any]]) -> bool:
    """Whether the kernel's core comes to an end while gaps are looked for, or soon after."""
    native = [each for each in samples if each["model"] == "native"]
    return all(each["call_ms"] + each["undo_ms"] < 2000 * WINDOW for each in native)


def main() -> None:
    """Measure and print."""
    rounds, sleepers, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    began = time.monotonic()
    # As livegraft.runtime does it (urgency.py); those who compute or sleep stay as they are.
    os.setpriority(os.PRIO_PROCESS, 0, FIRST)

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {text}", file=sys.stderr, flush=True)

    document: dict[str, Any] = {"loads": {}, "counts": {}, "gaps": {}}
    loads = {"idle": (0, 0), f"{sleepers} sleepers": (sleepers, 0)}
    loads[f"{sleepers} sleepers, 8 busy"] = (sleepers, 8)
    for load, (sleeping, busy) in loads.items():
        say(load)
        with load_of(sleeping, busy):
            samples = cycles(name, rounds, native=True)
            document["loads"][load] = samples
            say(f"{load}, gaps")
            models = (*MODELS, *(("native",) if fits(samples) else ()))
            document["gaps"][load] = gaps(name, max(rounds // 4, 3), models)
    for count in (1, 100, 500):
        say(f"{count} functions")
        document["counts"][count] = cycles(f"lgb_patch_{count}", rounds)
    say("calls")
    document["calls"] = costs(rounds)
    say("relocations")
    document["many"] = cycles("livegraft_many", max(rounds // 4, 3), native=True)
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
