# SPDX-License-Identifier: GPL-2.0-or-later
"""From changed files to the translation units that have to be compiled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from livegraft.errors import Reason, Refused
from livegraft.fix.includes import IncludeIndex, include_index
from livegraft.fix.kind import Kind, is_harmless, kind_of, reason_for
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import files_read, side_by_side
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.objects import Unit, shared_reason, units_among
from livegraft.kbuild.shadow import Changes
from livegraft.kbuild.special import reasons_beside_units
from livegraft.kbuild.target import KernelTree, tree_digest
from livegraft.progress import SILENT, Progress

UNIT_LIMIT = 64
"""How many units a fix may touch: more take minutes to compile, and their users hours to patch."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Touched:
    """What a fix touches.

    Args:
        units: the units to compile, by path.
        ignored: changed files that the running kernel does not contain, and why; worth a warning.
        refused: why the fix cannot be applied whatever its units say.
    """

    units: tuple[Unit, ...]
    ignored: tuple[Reason, ...]
    refused: tuple[Reason, ...] = ()


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
    limit: int = UNIT_LIMIT,
) -> Touched:
    """The units that are compiled from a changed file, or read one, in this kernel's configuration.

    Args:
        changes: what :meth:`livegraft.fix.fix.Fix.apply` returns.
        limit: the number of units at which to give up.

    Raises:
        Refused: there is no unit to look at: no changed file can be live patched, or none is in
            this kernel; with every reason that was found.
        BuildError: kbuild failed.
    """
    survey = _Survey()
    index = include_index(kernel, progress)
    _survey_files(survey, changes, kernel, index, progress)
    _check(survey, changes, required=False)
    reached = _read_by_compiler(survey, changes, kernel, index, progress, limit)
    survey.harmless += [_unread(path) for path in sorted(survey.included - reached)]
    survey.fatal += reasons_beside_units(kernel, index.closure(survey.included), changes, progress)
    survey.fatal += filter(None, map(shared_reason, survey.units.values()))
    survey.units = {path: unit for path, unit in survey.units.items() if not unit.also_in}
    _check(survey, changes, required=True)
    units = tuple(survey.units[path] for path in sorted(survey.units))
    return Touched(units, tuple(survey.harmless), tuple(survey.fatal))


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
            survey.included.add(path)
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
    limit: int,
) -> set[str]:
    """Add the units whose preprocessor reads a changed file; returns the files that are read."""
    candidates = sorted(
        path
        for path in index.closure(survey.included)
        if path.endswith(".c") and path not in survey.units
    )
    reached = survey.included & survey.units.keys()
    for at in range(0, len(candidates), _BATCH):
        for unit, read in _files_read(kernel, candidates[at : at + _BATCH], progress).items():
            if touched := read & survey.included:
                survey.units[unit.path] = unit
                reached |= touched
        if len(survey.units) > limit:
            survey.fatal.append(_too_many(survey, limit))
            survey.units = {
                path: survey.units[path] for path in survey.units.keys() & changes.keys()
            }
            return survey.included
    # What a unit that is changed itself reads counts as well.
    own = [path for path in survey.units if path in changes]
    if survey.included - reached and own:
        for read in _files_read(kernel, own, progress).values():
            reached |= read & survey.included
    return reached


def _files_read(
    kernel: KernelTree, paths: Iterable[str], progress: Progress
) -> Mapping[Unit, frozenset[str]]:
    """The files of the source tree that units read, each asked of the compiler once and kept."""
    commands = learn(kernel, units_among(kernel, paths, progress).values(), progress)
    folder = f"kbuild/{tree_digest(kernel)}/read"
    with progress.step("find out what units read", len(commands)):
        read = side_by_side(
            partial(_read_by, kernel, command, kernel.derived(f"{folder}/{unit.path}.json"))
            for unit, command in commands.items()
        )
    return dict(zip(commands, read, strict=True))


def _read_by(kernel: KernelTree, command: Command, name: str) -> frozenset[str]:
    def ask(path: Path) -> None:
        path.write_text(json.dumps(sorted(files_read(kernel, command).within(kernel.source))))

    return frozenset(json.loads(kernel.cache.file(name, ask).read_text()))


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


def _deleted(path: str) -> Reason:
    return Reason(
        str(Kind.BUILD_SYSTEM),
        path,
        "is deleted, but this kernel is built from it",
        "boot a kernel with the fix",
    )


def _too_many(survey: _Survey, limit: int) -> Reason:
    return Reason(
        "too-many-units",
        ", ".join(sorted(survey.included)),
        f"is read by more than {limit} translation units",
        "change the .c files that need it instead, or boot a kernel with the fix",
    )
