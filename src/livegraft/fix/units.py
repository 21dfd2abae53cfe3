# SPDX-License-Identifier: GPL-2.0-or-later
"""From changed files to the translation units that have to be compiled."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from livegraft.errors import Reason, Refused
from livegraft.fix.includes import IncludeIndex, hidden_by, include_index
from livegraft.fix.kind import Kind, is_harmless, kind_of, reason_for
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import files_read, side_by_side
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.objects import Unit, units_among
from livegraft.kbuild.shadow import Changes
from livegraft.kbuild.special import reasons_beside_units
from livegraft.kbuild.target import KernelTree, tree_digest
from livegraft.progress import SILENT, Progress

FEW_CANDIDATES = 64
"""As many units are asked at a time which files they read, if a few readers are enough."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a fix touches.

    Args:
        units: the units to compile, by path.
        ignored: changed files that the running kernel does not contain, and why; worth a warning.
        refused: why the fix cannot be applied whatever its units say.
        is_all: whether no other unit reads a changed file.
    """

    units: tuple[Unit, ...]
    ignored: tuple[Reason, ...]
    refused: tuple[Reason, ...] = ()
    is_all: bool = True


@dataclass(slots=True)
class _Survey:
    """What is known of the changed files so far."""

    units: dict[str, Unit] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)
    harmless: list[Reason] = field(default_factory=list)
    fatal: list[Reason] = field(default_factory=list)


def units_of(
    changes: Changes,
    kernel: KernelTree,
    progress: Progress = SILENT,
    *,
    enough: int | None = None,
    most: int | None = None,
    units_alone: bool = False,
) -> Touched:
    """The units that are compiled from a changed file, or read one, in this kernel's configuration.

    A unit that is linked into several objects is there once for each. How many read a header is
    limited by `most` alone: thousands take minutes to be asked, once, and are told of.

    Args:
        changes: what :meth:`livegraft.fix.fix.Fix.apply` returns.
        enough: stop once so many units are found that read a changed file; None for all.
        most: refuse the fix if more units than that read a changed header; None for no limit.
        units_alone: do not look at what is made of changed headers beside units.

    Raises:
        Refused: there is no unit to look at: no changed file can be live patched, or none is in
            this kernel; with every reason that was found. Or there are more than `most`.
        BuildError: kbuild failed.
    """
    survey = _Survey()
    index = include_index(kernel, progress)
    _survey_files(survey, changes, kernel, index, progress)
    _check(survey, changes, required=False)
    reached = _read_by_compiler(survey, changes, kernel, index, progress, enough, most)
    if reached is not None:
        survey.harmless += [
            _unread(path) for path in sorted(survey.included & changes.keys() - reached)
        ]
    if not units_alone:
        includers = index.closure(survey.included)
        survey.fatal += reasons_beside_units(kernel, includers, changes, progress)
    _check(survey, changes, required=True)
    units = tuple(each for path in sorted(survey.units) for each in survey.units[path].each)
    is_all = reached is not None
    return Touched(units, tuple(survey.harmless), tuple(survey.fatal), is_all)


def _survey_files(
    survey: _Survey,
    changes: Changes,
    kernel: KernelTree,
    index: IncludeIndex,
    progress: Progress,
) -> None:
    architecture = environment_of(kernel)["SRCARCH"]
    kinds = {path: kind_of(path, architecture) for path in changes}
    sources = [
        path
        for path, kind in kinds.items()
        if path.endswith((".c", ".S")) and kind in (Kind.CODE, Kind.ASSEMBLY, Kind.VDSO)
    ]
    built = units_among(kernel, sources, progress)
    for path, kind in kinds.items():
        includers = index.includers(path)
        if is_harmless(path, kind):
            survey.harmless.append(reason_for(path, kind))
        elif path in built and path.endswith(".c"):
            if changes[path] is None:
                survey.fatal.append(_deleted(path))
            else:
                survey.units[path] = built[path]
                survey.included.update([path] if includers else [])
        elif kind is Kind.ASSEMBLY and path not in built and not includers:
            survey.harmless.append(_not_built(path))
        elif kind is Kind.HEADER or (includers and kind in (Kind.CODE, Kind.GENERATOR_INPUT)):
            survey.included.update((path, *hidden_by(path, kernel.source, architecture)))
        elif kind is Kind.CODE:
            survey.harmless.append(_not_built(path))
        else:
            survey.fatal.append(reason_for(path, kind))


def _read_by_compiler(
    survey: _Survey,
    changes: Changes,
    kernel: KernelTree,
    index: IncludeIndex,
    progress: Progress,
    enough: int | None,
    most: int | None,
) -> set[str] | None:
    """Add the units whose preprocessor reads a changed file.

    Returns:
        The files that are read; None if not all units were asked, for there were enough.

    Raises:
        Refused: they are more than `most`.
    """
    candidates = sorted(
        path
        for path in index.closure(survey.included)
        if path.endswith(".c") and path not in survey.units
    )
    reached = survey.included & survey.units.keys()
    own = len(survey.units)
    readers = Counter[str]()
    step = len(candidates) or 1
    if enough is not None:
        step = FEW_CANDIDATES
    elif most is not None:
        step = max(FEW_CANDIDATES, most + 1)
    for at in range(0, len(candidates), step):
        if enough is not None and len(survey.units) - own >= enough:
            return None
        asked = candidates[at : at + step]
        for unit, touched in _read_among(kernel, asked, survey.included, progress).items():
            if touched:
                survey.units[unit.path] = unit
                reached |= touched
                readers.update(touched)
        if most is not None and len(survey.units) - own > most:
            # Each may have fewer, and what a new header hides is not of the fix.
            many = {path for path in changes if readers[path] > most}
            named = sorted(many or changes.keys() & survey.included)
            reasons = [_read_by_many(path, most) for path in named]
            raise Refused(named[0], [*survey.fatal, *reasons])
    # What a unit that is changed itself reads counts as well.
    changed = [path for path in survey.units if path in changes]
    if survey.included - reached and changed:
        for touched in _read_among(kernel, changed, survey.included, progress).values():
            reached |= touched
    return reached


def _read_among(
    kernel: KernelTree, paths: Iterable[str], files: Set[str], progress: Progress
) -> Mapping[Unit, frozenset[str]]:
    """Which of some files of the source tree units read: each is asked of the compiler once, and
    all that it reads is kept."""
    units = units_among(kernel, paths, progress).values()
    commands = learn(kernel, units, progress)
    folder = f"kbuild/{tree_digest(kernel)}/read"
    names = {unit: kernel.derived(f"{folder}/{unit.path}.json") for unit in units}
    unknown = [unit for unit, name in names.items() if not (kernel.cache.root / name).is_file()]
    if unknown:
        began = time.monotonic()
        _read_by(kernel, commands[unknown[0]], names[unknown[0]], files)
        what = f"{len(unknown)} units may read what the fix changes; to ask each, once per kernel"
        progress.foretell(what, len(unknown), time.monotonic() - began)
    with progress.step("find out what units read", len(names)) as step:
        tasks = (
            partial(_read_by, kernel, commands[unit], name, files) for unit, name in names.items()
        )
        return dict(zip(names, side_by_side(tasks, advance=step.advance), strict=True))


def _read_by(kernel: KernelTree, command: Command, name: str, files: Set[str]) -> frozenset[str]:
    def ask(path: Path) -> None:
        path.write_text(json.dumps(sorted(files_read(kernel, command).within(kernel.source))))

    return frozenset(json.loads(kernel.cache.file(name, ask).read_text())) & files


def _check(survey: _Survey, changes: Changes, required: bool) -> None:
    """Refuse a fix without units, if they are `required`; or without anything that may have any."""
    if not survey.units and (required or not survey.included):
        raise Refused(next(iter(sorted(changes))), [*survey.fatal, *survey.harmless])


def _not_built(path: str) -> Reason:
    return Reason(
        str(Kind.FOREIGN),
        path,
        "is not built in this kernel's configuration",
        "nothing is to be patched there on this kernel",
    )


def _unread(path: str) -> Reason:
    return Reason(
        str(Kind.FOREIGN),
        path,
        "is read by no unit that this kernel builds",
        "nothing is to be patched there on this kernel",
    )


def _read_by_many(path: str, most: int) -> Reason:
    return Reason(
        "too-many-units",
        path,
        f"more than {most} units read what the fix changes",
        "allow more (--units), or change the .c files that need it instead of the header",
    )


def _deleted(path: str) -> Reason:
    return Reason(
        str(Kind.BUILD_SYSTEM),
        path,
        "is deleted, but this kernel is built from it",
        "boot a kernel with the fix",
    )
