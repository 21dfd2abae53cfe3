# SPDX-License-Identifier: GPL-2.0-or-later
"""All cells of a comparison, one guest after the other. A guest's answer is a file: what is done is
kept.

A cell has several guests, a few repetitions in each: what differs between two guests of a cell, and
between two moments of this machine, is so in its intervals. They take turns: every cell has had its
first guest before one gets its second.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from livegraft.errors import ModuleError, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.lab import acceleration
from livegraft.lab.comparison import cells
from livegraft.lab.comparison.cells import Cell, Status, Subject, merged
from livegraft.lab.comparison.scenarios import Scenario
from livegraft.lab.comparison.scenarios import scenarios as all_scenarios
from livegraft.lab.qemu import Accelerator
from livegraft.lab.witnesses import witnesses
from livegraft.module.delivery import write_whole
from livegraft.progress import SILENT, Progress

FORMAT = 7
"""Of an answer. In 1 a pause at the moment of loading counted as one of the time before as well; in
2 the probe kept an emulated processor for a tenth of a second, and was that pause itself; in 3 the
load had the lowest priority, and the probe kept it from running; in 4 native's pauses had the looks
at all tasks in them, in 5 its times, and what has hundreds of functions was never kicked; in 6 a
cell was one guest, and native was kicked without end."""

LOCK = "lab/measure"
"""Of the cache. One guest at a time: two comparisons would measure each other."""

CELLS = "cells"
OPTIONS = "options.json"


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

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Options:
        """As they stand in the folder."""
        kernels, models, scenarios = (
            tuple(found[name]) for name in ("kernels", "models", "scenarios")
        )
        return cls(kernels, models, scenarios, int(found["repeat"]), tuple(found["patch"]))

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
    """Measure what is not there yet.

    Args:
        options: what is compared.
        kernels: prepared, in the order of `options`.
        scenarios: likewise.
        subject: the user's patch.
        folder: where the answers are kept.
        progress: gets the step ``measure``, in guests.

    Returns:
        All cells, by kernel, scenario and model.
    """
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    write_whole(folder / OPTIONS, _text(options.as_json()))
    plan = turns(options, scenarios)
    found: Answers = {turn.cell: {} for turn in plan}
    for turn in plan:
        answer = kept(turn.path(folder), turn.asked(options))
        if answer is not None:
            found[turn.cell][turn.number] = answer
    if there := sum(map(len, found.values())):
        progress.note(f"{there} of {len(plan)} guests are there already")
    missing = [turn for turn in plan if turn.number not in found[turn.cell]]
    wanted = [turn for turn in missing if _hopeful(turn, found)]
    wanted.sort(key=lambda turn: turn.number)  # stable: all first guests, then all second ones
    by_release = {kernel.release: kernel for kernel in kernels}
    alone = kernels[0].cache.lock(LOCK, progress) if wanted else nullcontext()
    with alone, progress.step("measure", len(wanted)) as step:
        for turn in wanted:
            step.say(turn.cell)
            if _hopeful(turn, found):
                kernel = by_release[turn.release]
                answer = _answer(turn, kernel, options, subject, folder, progress)
                found[turn.cell][turn.number] = answer
            step.advance()
    return _cells(options, plan, found)


class Turn(NamedTuple):
    """A guest that a cell gets.

    Args:
        release: of the cell's kernel.
        scenario: of the cell.
        model: likewise.
        number: of the guest among those of the cell, from 0.
        repeat: repetitions in this guest.
    """

    release: str
    scenario: Scenario
    model: str
    number: int
    repeat: int

    @property
    def cell(self) -> str:
        """The name of its cell."""
        return f"{self.release}, {self.scenario.name}, {self.model}"

    def path(self, folder: Path) -> Path:
        """Where its answer is kept."""
        place = folder / CELLS / self.release / self.scenario.name / self.model
        return place / f"{self.number + 1}.json"

    def asked(self, options: Options) -> dict[str, Any]:
        """What decides whether an answer is the one that is wanted."""
        scenario = self.scenario
        return {
            "format": FORMAT,
            "repeat": self.repeat,
            "patch": [] if scenario.own else list(options.patch),
            "load": list(scenario.load),
            "settings": list(scenario.settings),
            "more": [scenario.patch, scenario.target, scenario.stack, scenario.kind],
            "model": self.model,
        }


Answers = dict[str, dict[int, Cell]]
"""What guests have said, by cell and number."""


def turns(options: Options, scenarios: Sequence[Scenario]) -> list[Turn]:
    """All guests of a comparison, cell by cell."""
    return [
        Turn(release, scenario, model, number, repeat)
        for release in options.kernels
        for scenario in scenarios
        for model in options.models
        for number, repeat in enumerate(shares(options.repeat, scenario.guests))
    ]


def _hopeful(turn: Turn, found: Answers) -> bool:
    """Whether no guest of this cell has failed: then the others would, too."""
    return all(each["status"] == Status.DONE for each in found[turn.cell].values())


def _cells(options: Options, plan: Sequence[Turn], found: Answers) -> list[Cell]:
    """The cells of which there is an answer, in the order of the plan."""
    guests = Counter(turn.cell for turn in plan)
    return [
        merged([own[number] for number in sorted(own)], options.repeat, guests[name])
        for name, own in found.items()
        if own
    ]


def shares(repeat: int, guests: int) -> list[int]:
    """Repetitions of each guest of a cell: two at least, as far as there are so many.

    Args:
        repeat: of all together.
        guests: at most.
    """
    guests = max(1, min(guests, repeat // 2))
    return [repeat // guests + (number < repeat % guests) for number in range(guests)]


def _answer(
    turn: Turn,
    kernel: Kernel,
    options: Options,
    subject: Subject | None,
    folder: Path,
    progress: Progress,
) -> Cell:
    """What a guest says, kept in its file."""
    path = turn.path(folder)
    # Another run may have measured it while this one waited.
    answer = kept(path, turn.asked(options)) or _measured(options, turn, kernel, subject, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _text(answer))
    if answer["reason"]:
        progress.note(f"{turn.cell}: {answer['status']}: {answer['reason']}")
    return answer


def read(folder: Path) -> tuple[dict[str, Any], list[Cell]]:
    """The options and cells that a folder holds.

    Raises:
        UsageError: it holds no comparison.
    """
    try:
        options = json.loads((folder / OPTIONS).read_text("utf-8"))
        asked = Options.of(options)
        named = [all_scenarios()[name] for name in asked.scenarios]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "name the folder that 'livegraft lab models -o' has written"
        raise UsageError(str(folder), "holds no comparison of models", remedy) from error
    plan = turns(asked, named)
    found: Answers = {turn.cell: {} for turn in plan}
    for turn in plan:
        answer = _stored(turn.path(folder), turn.asked(asked))
        if answer is not None:
            found[turn.cell][turn.number] = answer
    if not any(found.values()):
        problem = "holds no answer to what it asks: another version has measured it, or nobody yet"
        raise UsageError(str(folder), problem, "measure it: livegraft lab models")
    return options, _cells(asked, plan, found)


def _stored(path: Path, wanted: dict[str, Any]) -> Cell | None:
    """What a guest said when it was asked this."""
    try:
        answer: Cell = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return answer if answer.get("asked") == wanted else None


def kept(path: Path, wanted: dict[str, Any]) -> Cell | None:
    """What a guest said already, if asked as it would be now. One that was lost is no answer."""
    answer = _stored(path, wanted)
    ended = (Status.DONE, Status.UNAVAILABLE)
    return answer if answer is not None and answer["status"] in ended else None


def _measured(
    options: Options, turn: Turn, kernel: Kernel, subject: Subject | None, progress: Progress
) -> Cell:
    theirs = None if turn.scenario.own else subject
    request = cells.request(turn.scenario, turn.model, turn.repeat, theirs)
    try:
        files = witnesses(kernel, progress)
    except ModuleError as error:
        # Of this kernel; the rest goes on.
        found = cells.not_begun(error)
    else:
        found = cells.measure(kernel, files, turn.scenario, request, theirs)
    return {
        "kernel": turn.release,
        "scenario": turn.scenario.name,
        "model": turn.model,
        "asked": turn.asked(options),
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
