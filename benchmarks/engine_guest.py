# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a guest: what the engine's models cost, with the kernel's own core beside them.

Usage: ``engine_guest.py FOLDER ROUNDS SLEEPERS``. FOLDER holds ``sample.ko`` and the modules of
``benchmarks/modules``; the engine is loaded. Prints one JSON document. Modules are loaded by the
system call and watched in sysfs, without the runtime: this measures the kernel's side.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENGINE = Path("/sys/kernel/livegraft")
CORE = Path("/sys/kernel/livepatch")
MODELS = ("hybrid", "stop", "task")
FINIT_MODULE, DELETE_MODULE = 313, 176
"""x86-64."""
CALLS = 200_000

_libc = ctypes.CDLL(None, use_errno=True)


def insert(path: Path, model: str) -> None:
    """Load a payload."""
    file = os.open(path, os.O_RDONLY)
    try:
        if _libc.syscall(FINIT_MODULE, file, f"model={model}".encode(), 0):
            raise OSError(ctypes.get_errno(), f"{path.name} {model}")
    finally:
        os.close(file)


def remove(name: str) -> None:
    """Take a module out, as soon as its last user has let go."""
    while _libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK):
        if ctypes.get_errno() not in (11, 16):
            raise OSError(ctypes.get_errno(), name)
        time.sleep(0.001)


def times(folder: Path) -> dict[str, int]:
    """What the engine measured itself, microseconds."""
    pairs = (line.split() for line in (folder / "times").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def settled(folder: Path) -> None:
    """Wait until no task is changing sides."""
    with suppress(OSError):
        while (folder / "transition").read_text().strip() == "1":
            time.sleep(0.0002)


def cycle(path: Path, name: str, model: str) -> dict[str, object]:
    """Load and unload once."""
    folder = (CORE if model == "native" else ENGINE) / name
    began = time.monotonic()
    insert(path, model)
    settled(folder)
    applied = time.monotonic()
    sample: dict[str, object] = {"model": model, "call_ms": (applied - began) * 1000}
    if model != "native":
        sample["apply"] = times(folder)
        sample["signalled"] = int((folder / "signalled").read_text())
    began = time.monotonic()
    (folder / "enabled").write_text("0")
    settled(folder)
    sample["undo_ms"] = (time.monotonic() - began) * 1000
    if model != "native":
        sample["undo"] = times(folder)
    while folder.exists():
        time.sleep(0.001)
    sample["unloadable_ms"] = (time.monotonic() - began) * 1000
    remove(name)
    return sample


@contextmanager
def load_of(sleepers: int, busy: int) -> Iterator[None]:
    """Processes that sleep or compute for as long as the context lasts."""
    children = [_child(busy=number >= sleepers) for number in range(sleepers + busy)]
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


def call_cost(rounds: int) -> float:
    """Nanoseconds of one call of lgb_f000: the least of some rounds."""
    folder = Path("/sys/module/lgb_target/parameters")
    found = []
    for _ in range(rounds):
        (folder / "calls").write_text(str(CALLS))
        found.append(int((folder / "ns").read_text()) / CALLS)
    return min(found)


def main() -> None:
    """Measure and print."""
    folder, rounds, sleepers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    name = sys.argv[4]
    document: dict[str, object] = {"loads": {}, "calls": {}, "counts": {}}
    loads = {"idle": (0, 0), f"{sleepers} sleepers": (sleepers, 0)}
    loads[f"{sleepers} sleepers, 8 busy"] = (sleepers, 8)
    for load, (sleeping, busy) in loads.items():
        with load_of(sleeping, busy):
            samples = [
                cycle(folder / "sample.ko", name, model)
                for number in range(rounds)
                # The kernel's core takes seconds: a few rounds are enough for it.
                for model in (*MODELS, *(("native",) if number < 3 else ()))
            ]
        document["loads"][load] = samples  # type: ignore[index]
    for count in (1, 100, 500):
        samples = [
            cycle(folder / f"lgb_patch_{count}.ko", f"lgb_patch_{count}", model)
            for _ in range(rounds)
            for model in MODELS
        ]
        document["counts"][count] = samples  # type: ignore[index]
    costs = {"plain": call_cost(rounds)}
    for model in (*MODELS, "native"):
        insert(folder / "lgb_patch_1.ko", model)
        where = (CORE if model == "native" else ENGINE) / "lgb_patch_1"
        settled(where)
        costs[model] = call_cost(rounds)
        (where / "enabled").write_text("0")
        while where.exists():
            time.sleep(0.001)
        remove("lgb_patch_1")
    document["calls"] = costs
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
