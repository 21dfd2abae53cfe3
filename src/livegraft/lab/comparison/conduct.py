# SPDX-License-Identifier: GPL-2.0-or-later
"""All cells of a comparison, one guest after the other. A cell is a file: what is done is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livegraft.errors import ModuleError, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.lab import acceleration
from livegraft.lab.comparison import cells
from livegraft.lab.comparison.cells import Status, Subject
from livegraft.lab.comparison.scenarios import Scenario
from livegraft.lab.qemu import Accelerator
from livegraft.lab.witnesses import witnesses
from livegraft.module.delivery import write_whole
from livegraft.progress import SILENT, Progress

FORMAT = 6
"""Of a cell. In 1 a pause at the moment of loading counted as one of the time before as well; in 2
the probe kept an emulated processor for a tenth of a second, and was that pause itself; in 3 the
load had the lowest priority, and the probe kept it from running; in 4 native's pauses had the looks
at all tasks in them, in 5 its times, and what has hundreds of functions was never kicked."""

LOCK = "lab/measure"
"""Of the cache. One guest at a time: two comparisons would measure each other."""

CELLS = "cells"
OPTIONS = "options.json"

Cell = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared.

    Args:
        kernels: releases.
        models: those that are compared.
        scenarios: names.
        repeat: repetitions of each cell.
        patch: name and SHA-256 of the user's patch; empty if there is none.
    """

    kernels: tuple[str, ...]
    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    repeat: int
    patch: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it stands in the folder."""
        return {name: list(each) if isinstance(each, tuple) else each for name, each in self._all()}

    def _all(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in self.__slots__)


def conduct(
    options: Options,
    kernels: Sequence[Kernel],
    scenarios: Sequence[Scenario],
    subject: Subject | None,
    folder: Path,
    progress: Progress = SILENT,
) -> list[Cell]:
    """Measure every cell that is not there yet.

    Args:
        options: what is compared.
        kernels: prepared, in the order of `options`.
        scenarios: likewise.
        subject: the user's patch.
        folder: where the cells are kept.
        progress: gets the step ``measure``, in cells.

    Returns:
        All cells, by kernel, scenario and model.
    """
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    write_whole(folder / OPTIONS, _text(options.as_json()))
    plan = [
        (kernel, scenario, model)
        for kernel in kernels
        for scenario in scenarios
        for model in options.models
    ]
    done = {
        _path(folder, *one): kept(_path(folder, *one), asked(options, one[1], one[2]))
        for one in plan
    }
    if there := sum(cell is not None for cell in done.values()):
        progress.note(f"{there} of {len(plan)} cells are there already")
    wanted = [one for one in plan if done[_path(folder, *one)] is None]
    alone = kernels[0].cache.lock(LOCK, progress) if wanted else nullcontext()
    with alone, progress.step("measure", len(wanted)) as step:
        for one in wanted:
            kernel, scenario, model = one
            step.say(f"{kernel.release} {scenario.name} {model}")
            path = _path(folder, *one)
            # Another run may have measured it while this one waited.
            cell = kept(path, asked(options, scenario, model)) or _measured(
                options, *one, subject, progress
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, _text(cell))
            done[path] = cell
            if cell["reason"]:
                where = f"{kernel.release}, {scenario.name}, {model}"
                progress.note(f"{where}: {cell['status']}: {cell['reason']}")
            step.advance()
    return [cell for cell in done.values() if cell is not None]


def read(folder: Path) -> tuple[dict[str, Any], list[Cell]]:
    """The options and cells that a folder holds.

    Raises:
        UsageError: it holds no comparison.
    """
    try:
        options = json.loads((folder / OPTIONS).read_text("utf-8"))
        found = []
        for kernel in options["kernels"]:
            for scenario in options["scenarios"]:
                for model in options["models"]:
                    path = folder / CELLS / kernel / scenario / f"{model}.json"
                    if path.is_file():
                        found.append(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError) as error:
        remedy = "name the folder that 'livegraft lab models -o' has written"
        raise UsageError(str(folder), "holds no comparison of models", remedy) from error
    return options, found


def _path(folder: Path, kernel: Kernel, scenario: Scenario, model: str) -> Path:
    return folder / CELLS / kernel.release / scenario.name / f"{model}.json"


def kept(path: Path, wanted: dict[str, Any]) -> Cell | None:
    """A cell that was measured already, as it is wanted now. A guest that was lost is no answer."""
    try:
        cell: Cell = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    fits = cell.get("asked") == wanted
    return cell if fits and cell["status"] in (Status.DONE, Status.UNAVAILABLE) else None


def asked(options: Options, scenario: Scenario, model: str) -> dict[str, Any]:
    """What decides whether a cell is the one that is wanted."""
    patch = [] if scenario.own else list(options.patch)
    return {
        "format": FORMAT,
        "repeat": options.repeat,
        "patch": patch,
        "load": list(scenario.load),
        "settings": list(scenario.settings),
        "more": [scenario.patch, scenario.target, scenario.stack, scenario.kind],
        "model": model,
    }


def _measured(
    options: Options,
    kernel: Kernel,
    scenario: Scenario,
    model: str,
    subject: Subject | None,
    progress: Progress,
) -> Cell:
    theirs = None if scenario.own else subject
    request = cells.request(scenario, model, options.repeat, theirs)
    try:
        files = witnesses(kernel, progress)
    except ModuleError as error:
        # Of this kernel; the rest goes on.
        found = cells.not_begun(error)
    else:
        found = cells.measure(kernel, files, scenario, request, theirs)
    return {
        "kernel": kernel.release,
        "scenario": scenario.name,
        "model": model,
        "asked": asked(options, scenario, model),
        "patch": request.patch,
        **found,
    }


def machine(kernel: Kernel) -> dict[str, Any]:
    """What the guests run on."""
    accelerator = acceleration.best(kernel.vmlinuz, kernel.modules, kernel.cache, SILENT)
    return {
        "emulated": accelerator is not Accelerator.KVM,
        "processors": os.cpu_count() or 1,
        "processor": _processor(),
        "guest_processors": 2,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _text(document: Any) -> bytes:
    return (json.dumps(document, ensure_ascii=False) + "\n").encode()


def subject_of(path: Path, functions: Sequence[tuple[str, str]], name: str, digest: str) -> Subject:
    """The user's patch as a guest gets it: without its signature, for a guest trusts nobody."""
    from livegraft.changeset import VMLINUX
    from livegraft.trust import appended

    content, _ = appended.split(path.read_bytes(), str(path))
    targets = tuple(sorted({owner for owner, _ in functions} - {VMLINUX}))
    return Subject(name, content, tuple(functions), targets, digest)
