# SPDX-License-Identifier: GPL-2.0-or-later
"""Load the modules of a survey in guests, many per guest, and let the oracle judge each.

A module whose guest is lost is tried again alone in a fresh one: only then it is its own fault. The
weakness of QEMU's emulation that :func:`livegraft.lab.guest.emulator_failed` knows never is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from livegraft.changeset import VMLINUX
from livegraft.errors import LivegraftError, LostGuest
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest, GuestCommandFailed, emulator_failed
from livegraft.lab.modules import ModuleFolder
from livegraft.pipeline import kept_objects
from livegraft.survey.building import Outcome, failed
from livegraft.survey.grouping import open_kernel
from livegraft.survey.objectfile import Elf
from livegraft.survey.oracle import Check, Module, Verdict
from livegraft.survey.running import Running, Unit, running_kernel, running_module

BATCH = 12
"""Modules per guest: enough to make up for its start, few enough to lose little with it."""

ATTEMPTS = 4
"""How often a batch is tried again because the emulation failed."""

MODULE_SECONDS = 240.0
_DRIVER = "/root/in_guest.py"
_REQUEST = "/root/request.json"
_MEMORY_MIB = 2048
_BOOT_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Load:
    """A module to be loaded.

    Args:
        id: the fix's.
        name: the module's.
        module: its file.
        objects: the folder of its object files.
        targets: the objects that it patches.
    """

    id: str
    name: str
    module: Path
    objects: Path
    targets: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that it patches."""
        return tuple(each for each in self.targets if each != VMLINUX)


Found = dict[str, Any]


def load_all(release: str, cache_root: Path, loads: Sequence[Load]) -> list[tuple[str, Found]]:
    """Load modules in one guest, or in as many as it takes; runs in a worker.

    Returns:
        for each fix the members of its line in the results.
    """
    kernel = open_kernel(release, cache_root)
    found: dict[str, Found] = {}
    attempts = lost = 0
    while pending := [load for load in loads if load.id not in found]:
        batch = pending if attempts == 0 else pending[:1]
        try:
            for load, answer in _in_one_guest(kernel, batch):
                found[load.id] = answer
        except GuestNotUp as error:
            # Nothing was loaded yet: this machine is too busy, and no module is to blame.
            lost += 1
            if lost > ATTEMPTS:
                raise error.lost from error
            continue
        except LostGuest as error:
            # The first that has no answer was in the guest when it was lost.
            suspect = next((load for load in batch if load.id not in found), None)
            if suspect is None:
                continue  # the guest was given up after the last answer
            attempts += 1
            if emulator_failed(error.console) and attempts <= ATTEMPTS:
                continue
            if len(batch) == 1:
                found[suspect.id] = failed(f"the guest was lost: {error.reason}")
                attempts = 0
    return list(found.items())


class GuestNotUp(Exception):
    """A guest was lost before anything was loaded in it."""

    def __init__(self, lost: LostGuest) -> None:
        super().__init__(str(lost))
        self.lost = lost


@contextmanager
def _booted(kernel: Kernel) -> Iterator[Guest]:
    """A guest that is up.

    Raises:
        GuestNotUp: it did not come up.
    """
    driver = resources.files(__package__).joinpath("in_guest.py").read_bytes()
    with ExitStack() as stack:
        try:
            guest = stack.enter_context(_boot(kernel, driver))
        except LostGuest as error:
            raise GuestNotUp(error) from error
        yield guest


def _boot(kernel: Kernel, driver: bytes) -> AbstractContextManager[Guest]:
    return boot(
        kernel.vmlinuz,
        kernel.modules,
        memory_mib=_MEMORY_MIB,
        files={_DRIVER: driver},
        timeout=_BOOT_SECONDS,
        cache=kernel.cache,
    )


def _in_one_guest(kernel: Kernel, loads: Sequence[Load]) -> Iterator[tuple[Load, Found]]:
    with _booted(kernel) as guest:
        symbols = running_kernel(guest.get("/proc/kallsyms").decode("utf-8", "replace"))
        folder = module_folder(kernel.modules)
        for load in loads:
            for module in load.modules:
                _modprobe(guest, module)
            answer = _try(guest, load)
            yield load, _judged(load, answer, symbols, folder)
            if answer.get("left"):
                raise LostGuest(guest.name, f"{load.name} stayed in the kernel", guest.console())


def _modprobe(guest: Guest, module: str) -> None:
    """Insert a module that is to be patched.

    A driver may not come up without its hardware: the patch then waits for it.
    """
    with suppress(GuestCommandFailed):
        guest.modprobe(module)


@lru_cache(maxsize=1)
def module_folder(path: Path) -> ModuleFolder:
    """The kernel's modules, listed once per process."""
    return ModuleFolder(path)


def _try(guest: Guest, load: Load) -> Found:
    data = load.module.read_bytes()
    path = f"/root/{load.name}.ko"
    guest.put(path, data)
    module = Module(data)
    request = {
        "name": load.name,
        "path": path,
        "read": module.places(),
        "targets": sorted({*load.modules, *module.objects()} - {VMLINUX}),
    }
    guest.put(_REQUEST, json.dumps([request]).encode())
    done = guest.run(["python3", _DRIVER, _REQUEST], timeout=MODULE_SECONDS)
    if done.timed_out:
        raise LostGuest(guest.name, f"{load.name} hangs in the kernel", guest.console()[-4000:])
    for line in done.text.splitlines():
        answer: Found = json.loads(line)
        if answer.get("name") == load.name:
            return answer
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    raise LivegraftError(load.name, f"the guest said: {said[-1] if said else 'nothing'}")


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {check.value: sum(each.check is check for each in verdicts) for check in Check}


def _judged(load: Load, answer: Found, symbols: Running, folder: ModuleFolder) -> Found:
    if "error" in answer:
        error = answer["error"]
        return failed(f"not loaded: {error['object']}: {error['message']}") | {
            "faults": answer.get("faults", [])
        }
    targets: dict[str, dict[str, int]] = answer["targets"]
    objects = {VMLINUX: symbols} | {
        name: running_module(folder.content(name), places) for name, places in targets.items()
    }
    units: dict[str, list[Unit]] = {}
    for kept in kept_objects(load.objects):
        if kept.object in objects:
            plain, patched = (Elf.read(path.read_bytes()) for path in (kept.plain, kept.patched))
            unit = Unit(plain, patched, objects[kept.object], symbols, objects.values())
            units.setdefault(kept.object, []).append(unit)
    module = Module(load.module.read_bytes())
    every = [unit for some in units.values() for unit in some]
    relocations = module.judge(answer["values"], answer["sections"], objects, every)
    functions = module.judge_functions(answer["functions"], objects, units)
    verdicts = [*relocations, *functions]
    wrong = [
        f"{each.place}: {each.symbol}: {each.detail}"
        for each in verdicts
        if each.check is Check.WRONG
    ]
    unknown = [f"{each.place}: {each.symbol}" for each in verdicts if each.check is Check.UNKNOWN]
    outcome = Outcome.LOADED
    error_text = ""
    if wrong:
        outcome, error_text = Outcome.WRONG, wrong[0]
    elif answer["faults"] or answer["left"]:
        outcome = Outcome.FAILED
        error_text = next(iter(answer["faults"]), "it stayed in the kernel")
    return {
        "outcome": outcome,
        **({"error": error_text} if error_text else {}),
        "object_loaded": {name: name == VMLINUX or name in targets for name in load.targets},
        "relocations": _counts(relocations),
        "functions_judged": _counts(functions),
        "wrong": wrong,
        "unknown": unknown[:10],
        "transition_ms": answer["load"]["transition_ms"],
        "guest_seconds": answer["seconds"],
        "faults": answer["faults"],
    }
