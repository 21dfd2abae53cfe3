# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: what the engine's models cost, with the kernel's own core beside them.

Usage: ``-m benchmarks.engine_guest FOLDER ROUNDS SLEEPERS NAME``. FOLDER holds ``sample.ko``, whose
module is called NAME, ``many.ko``, which is ``livegraft_many``, and the modules of
``benchmarks/modules``; the engine is loaded. Prints one JSON document; what is being done goes to
stderr. Modules are loaded by the system call and watched in sysfs, for this measures the kernel.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.others import load_of, longest_gaps
from livegraft.runtime.syscalls import delete_module, init_module
from livegraft.runtime.urgency import FIRST

ENGINE = Path("/sys/kernel/livegraft")
CORE = Path("/sys/kernel/livepatch")
MODELS = ("hybrid", "stop", "task")
NATIVE_ROUNDS = 3
"""The kernel's core takes seconds for each: a few rounds are enough for it."""
NATIVE_SECONDS = 60.0
"""And none begins under a load once those before it have taken so long."""
CALLS = 200_000
WINDOW = 3.0
"""Seconds in which gaps are looked for."""


class Patch:
    """A payload, to be loaded under a model."""

    def __init__(self, path: Path, name: str, model: str) -> None:
        self.data = path.read_bytes()
        self.name, self.model = name, model
        self.folder = (CORE if model == "native" else ENGINE) / name

    def read(self, name: str) -> str:
        """A file of its directory."""
        return (self.folder / name).read_text().strip()

    def times(self) -> dict[str, int]:
        """What the engine measured itself, microseconds; nothing from the kernel's core."""
        if self.model == "native":
            return {}
        pairs = (line.split() for line in self.read("times").splitlines())
        return {name: int(value) for name, value in pairs}

    def settled(self) -> None:
        """Wait until no task is changing sides."""
        with suppress(OSError):
            while self.read("transition") == "1":
                time.sleep(0.0002)

    def load(self) -> float:
        """Apply it; milliseconds until all run the new code."""
        began = time.monotonic()
        init_module(self.name, self.data, f"model={self.model}", model=self.model)
        self.settled()
        return (time.monotonic() - began) * 1000

    def undo(self) -> float:
        """Undo it; milliseconds until all run the old code."""
        began = time.monotonic()
        (self.folder / "enabled").write_text("0")
        self.settled()
        return (time.monotonic() - began) * 1000

    def remove(self) -> None:
        """Take the module out, as soon as its last user has let go."""
        while self.folder.exists():
            time.sleep(0.001)
        delete_module(self.name)


def cycle(patch: Patch) -> dict[str, Any]:
    """Load and unload once."""
    sample: dict[str, Any] = {"model": patch.model, "call_ms": patch.load()}
    sample["apply"] = patch.times()
    began = time.monotonic()
    sample["undo_ms"] = patch.undo()
    sample["undo"] = patch.times()
    while patch.folder.exists():
        time.sleep(0.001)
    sample["unloadable_ms"] = (time.monotonic() - began) * 1000
    patch.remove()
    return sample


def cycles(path: Path, name: str, rounds: int, *, native: int = 0) -> list[dict[str, Any]]:
    """Every model in turn, the kernel's own core less often."""
    found, spent = [], 0.0
    for number in range(rounds):
        found += [cycle(Patch(path, name, model)) for model in MODELS]
        if number < native and spent < NATIVE_SECONDS:
            began = time.monotonic()
            found.append(cycle(Patch(path, name, "native")))
            spent += time.monotonic() - began
    return found


def call_costs(path: Path, rounds: int) -> dict[str, float]:
    """Nanoseconds of one call of lgb_f000, unpatched and under each model: the least of some."""
    folder = Path("/sys/module/lgb_target/parameters")

    def least() -> float:
        found = []
        for _ in range(rounds):
            (folder / "calls").write_text(str(CALLS))
            found.append(int((folder / "ns").read_text()) / CALLS)
        return min(found)

    costs = {"plain": least()}
    for model in (*MODELS, "native"):
        patch = Patch(path, "lgb_patch_1", model)
        patch.load()
        costs[model] = least()
        patch.undo()
        patch.remove()
    return costs


def gaps(
    folder: Path, name: str, rounds: int, busy: int, models: Sequence[str]
) -> dict[str, list[float]]:
    """The longest gap of any of some busy tasks, in each round: without a patch, and with one."""

    def ordinary() -> None:
        init_module("lgb_plain", (folder / "lgb_plain.ko").read_bytes())
        delete_module("lgb_plain")

    ways: dict[str, Callable[[], object]] = {"nothing": lambda: None, "module": ordinary} | {
        model: partial(cycle, Patch(folder / "sample.ko", name, model)) for model in models
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, meanwhile in ways.items():
            found[way].append(max(longest_gaps(busy, WINDOW, meanwhile)))
    return found


def fits(samples: list[dict[str, Any]]) -> bool:
    """Whether the kernel's core comes to an end while gaps are looked for, or soon after."""
    native = [each for each in samples if each["model"] == "native"]
    return all(each["call_ms"] + each["undo_ms"] < 2000 * WINDOW for each in native)


def main() -> None:
    """Measure and print."""
    folder, rounds, sleepers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    name = sys.argv[4]
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
            samples = cycles(folder / "sample.ko", name, rounds, native=NATIVE_ROUNDS)
            document["loads"][load] = samples
            say(f"{load}, gaps")
            models = (*MODELS, *(("native",) if fits(samples) else ()))
            document["gaps"][load] = gaps(folder, name, max(rounds // 4, 3), busy or 2, models)
    for count in (1, 100, 500):
        say(f"{count} functions")
        path = folder / f"lgb_patch_{count}.ko"
        document["counts"][count] = cycles(path, path.stem, rounds)
    say("calls")
    document["calls"] = call_costs(folder / "lgb_patch_1.ko", rounds)
    say("relocations")
    many = cycles(folder / "many.ko", "livegraft_many", max(rounds // 4, 3), native=NATIVE_ROUNDS)
    document["many"] = many
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
