# SPDX-License-Identifier: GPL-2.0-or-later
"""Load the modules of a survey in guests, one after the other, and let the oracle judge each.

What went wrong with one that shared its guest with others is no answer yet: whoever was there
before may have caused it. It is tried again alone (:mod:`livegraft.survey.conduct`): only then is
it its own fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from livegraft.changeset import VMLINUX
from livegraft.errors import LivegraftError, LostGuest
from livegraft.fix.kept import KeptObjects, kept_objects
from livegraft.lab.guest import Guest
from livegraft.survey.building import Outcome, failed
from livegraft.survey.grouping import open_kernel
from livegraft.survey.guests import DRIVER, Inhabited, KeptGuest
from livegraft.survey.objectfile import Elf
from livegraft.survey.oracle import UNREAD, Check, Module, Verdict, read_back
from livegraft.survey.running import Running, Unit

MODULE_SECONDS = 240.0
_REQUEST = "/root/request.json"


@dataclass(frozen=True, slots=True)
class Load:
    """A module to be loaded.

    Args:
        id: the fix's.
        name: the module's.
        module: its file.
        objects: the folder of its object files.
        targets: the objects that it patches.
        second: whether it was cut out of the source.
    """

    id: str
    name: str
    module: Path
    objects: Path
    targets: tuple[str, ...]
    second: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that it patches."""
        return tuple(each for each in self.targets if each != VMLINUX)


Found = dict[str, Any]


def load_one(release: str, cache_root: Path, load: Load, alone: bool = False) -> Found:
    """Load a module in the guest of this worker.

    Args:
        alone: in a guest of its own.

    Returns:
        the members of its line in the results.

    Raises:
        GuestNotUp: no guest came up.
    """
    kept = kept_guest(release, cache_root)
    if alone:
        kept.give_up()
    try:
        return _attempt(kept, load)
    except LostGuest as error:
        return failed(f"the guest was lost: {error.reason}")


@lru_cache(maxsize=1)
def kept_guest(release: str, cache_root: Path) -> KeptGuest:
    """The guest of this worker."""
    return KeptGuest(open_kernel(release, cache_root))


def _attempt(kept: KeptGuest, load: Load) -> Found:
    """Load it; after a failure the guest is given up.

    Raises:
        LostGuest: the guest hangs or is gone.
    """
    here = kept.up()
    try:
        for module in load.modules:
            here.bring(module)
        found = _judged(load, _try(here.guest, load), here)
    except Exception:
        kept.give_up()
        raise
    if found["outcome"] == Outcome.FAILED:
        kept.give_up()
    return found


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
    guest.put(_REQUEST, json.dumps(request).encode())
    done = guest.run(["python3", DRIVER, _REQUEST], timeout=MODULE_SECONDS)
    if done.timed_out:
        raise LostGuest(guest.name, f"{load.name} hangs in the kernel", guest.console())
    try:
        answer: Found = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LivegraftError(
            load.name, f"the guest said: {said[-1] if said else 'nothing'}"
        ) from error
    return answer


def _counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {check.value: sum(each.check is check for each in verdicts) for check in Check}


def _unit(
    kept: KeptObjects, second: bool, running: Running, here: Inhabited, others: Iterable[Running]
) -> Unit:
    """A unit of the fix, by the object file that the module was made of."""
    plain, patched = (Elf.read(path.read_bytes()) for path in (kept.plain, kept.patched))
    if not second or kept.extracted is None:
        return Unit(plain, patched, running, here.symbols, others, read=here.read)
    cut = Elf.read(kept.extracted.read_bytes())
    return Unit(plain, cut, running, here.symbols, others, whole=patched, read=here.read)


def _judged(load: Load, answer: Found, here: Inhabited) -> Found:
    if "error" in answer:
        error = answer["error"]
        what = "not unloaded" if "load" in answer else "not loaded"
        return failed(f"{what}: {error['object']}: {error['message']}") | {
            "faults": answer["faults"]
        }
    targets: dict[str, dict[str, int]] = answer["targets"]
    symbols = here.symbols
    objects = {VMLINUX: symbols} | {
        name: here.running(name, places) for name, places in targets.items()
    }
    units: dict[str, list[Unit]] = {}
    for kept in kept_objects(load.objects):
        if kept.object in objects:
            unit = _unit(kept, load.second, objects[kept.object], here, objects.values())
            units.setdefault(kept.object, []).append(unit)
    module = Module(load.module.read_bytes())
    relocations = module.judge(answer["values"], answer["sections"], objects, units)
    functions = module.judge_functions(answer["functions"], objects, units)
    verdicts = [*relocations, *functions]
    wrong = [each for each in verdicts if each.check is Check.WRONG]
    unread = [each for each in verdicts if each.check in UNREAD]
    outcome = Outcome.LOADED
    error_text = ""
    if wrong:
        outcome, error_text = Outcome.WRONG, str(wrong[0])
    elif answer["faults"] or answer["left"]:
        outcome = Outcome.FAILED
        error_text = next(iter(answer["faults"]), "it stayed in the kernel")
    return {
        "outcome": outcome,
        **({"error": error_text} if error_text else {}),
        "object_loaded": {name: name == VMLINUX or name in targets for name in load.targets},
        "without_init": sorted(here.inert.intersection(load.modules)),
        "read_back": read_back(verdicts),
        "relocations": _counts(relocations),
        "functions_judged": _counts(functions),
        "wrong": list(map(str, wrong)),
        "not_read_back": [f"{each}: {each.check}" for each in unread],
        "transition_ms": answer["load"]["transition_ms"],
        "guest_seconds": answer["seconds"],
        "faults": answer["faults"],
    }
