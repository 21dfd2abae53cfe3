# SPDX-License-Identifier: GPL-2.0-or-later
"""The way through: from a fix and a kernel to a live patch. A table of contents of the rooms."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from livegraft.assessment import Assessment, Method, Outcome, Question, Verdict
from livegraft.cache import Cache
from livegraft.changeset import VMLINUX, ChangeSet, State
from livegraft.compare.names import COLD
from livegraft.errors import CompileError, NothingChanged, NotPrepared, Refused
from livegraft.extract.ahead import Ahead
from livegraft.extract.folder import Folder
from livegraft.extract.work import Extraction
from livegraft.fix.compiled import IN_A_BATCH, compile_touched, find_reached
from livegraft.fix.fix import Fix
from livegraft.fix.includes import include_index
from livegraft.fix.kept import forget_objects
from livegraft.fix.units import Touched, units_of
from livegraft.jobs import Jobs
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kernel.image import open_image
from livegraft.kernel.kernel import Kernel, open_prepared
from livegraft.kernel.kernel import prepare as prepare_kernel
from livegraft.kernel.modulefile import open_module
from livegraft.kernel.packages import PackageSource
from livegraft.kernel.release import Release
from livegraft.kernel.shipped import open_shipped
from livegraft.kernel.symvers import read_symvers
from livegraft.module.build import KERNEL_SYMBOLS, Module, build_module, check_name, module_name
from livegraft.module.delivery import write_module
from livegraft.module.inspect import Inspection
from livegraft.module.manifest import Identity, Provenance
from livegraft.progress import SILENT, Progress

FIRST_READERS = 32
"""As many of the units that read a changed header are judged before all others are looked for."""

__all__ = ["Built", "Method", "Outcome", "Verdict", "build", "check", "make", "prepare"]


@dataclass(frozen=True, slots=True)
class Built:
    """A live patch that was built and read back.

    Args:
        outcome: what it was made from.
        path: the module.
        size: in bytes.
        inspection: what the module holds, read from the module itself.
        second: with both methods, extract's module.
    """

    outcome: Outcome
    path: Path
    size: int
    inspection: Inspection
    second: Built | None = None


def prepare(
    release: Release | str,
    *,
    source: PackageSource | None = None,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Kernel:
    """:func:`livegraft.kernel.kernel.prepare`, and what the first build would have to wait for.

    Args, Raises: as there.
    """
    cache = cache or Cache()
    try:
        open_prepared(release, cache)
        is_new = False
    except NotPrepared:
        is_new = True
    kernel = prepare_kernel(release, source=source, cache=cache, progress=progress)
    if is_new:
        include_index(kernel, progress)
        open_shipped(kernel, VMLINUX, progress)
    return kernel


def check(
    fixes: Sequence[Path],
    kernel: Kernel,
    *,
    proof: bool = True,
    keep: Path | None = None,
    method: Method = Method.COMPARE,
    folder: Folder | None = None,
    why: bool = False,
    units: int | None = None,
    thorough: bool = False,
    progress: Progress = SILENT,
) -> Outcome:
    """Say what a fix is to a running kernel.

    Args:
        fixes: unified diffs that belong together, in order.
        kernel: the prepared kernel.
        proof: prove that the unpatched units are the shipped code.
        method: how the patch is prepared.
        folder: take the texts of an extracted patch, instead of cutting them out.
        why: find out why each function is in the set, which takes two more compilations.
        units: refuse a fix of headers that more units read; None for no limit.
        thorough: look at every unit that reads a header, although others speak against the fix.
        keep: a folder for the object files of what is changed (:mod:`livegraft.fix.kept`).
        progress: told of the steps.

    Raises:
        FixError: a diff cannot be used or does not apply, or the folder is not of this fix.
        NothingChanged: it changes nothing in this kernel.
        Refused: it changes what can never be replaced.
        CompileError: it does not compile.
        ProofFailed: what is compiled here is not what was shipped.
    """
    fix = Fix.load(fixes)
    if folder is not None:
        folder.check_origin(fix.sha256, kernel.source_version)
    changes = fix.apply(kernel.source)
    touched = units_of(changes, kernel, progress, enough=FIRST_READERS, most=units)
    warnings = [f"{each.object}: {each.message}" for each in touched.ignored]
    if not proof:
        warnings.append("the shipped code was not compared with the source (--no-proof)")
    if touched.refused and not touched.is_all and not thorough:
        raise Refused(", ".join(map(str, fixes)), touched.refused)
    question = Question(fix, kernel, method, proof, why, keep)
    if keep is not None:
        forget_objects(keep)
    with (
        tempfile.TemporaryDirectory(prefix="livegraft-units-") as objects,
        shadow_of(kernel.source, changes) as shadow,
        Jobs(1) as jobs,
    ):
        both, ahead = method is Method.BOTH, Ahead(jobs)
        extraction = Extraction(kernel, folder, why, both, progress, ahead)
        assessment = Assessment(question, extraction, touched.refused, warnings)
        try:
            work = _Work(shadow, Path(objects), units, thorough, progress)
            is_all = _assess(assessment, touched, work)
        except CompileError as error:
            if touched.refused:  # it may be for a file that cannot be changed
                raise Refused(", ".join(map(str, fixes)), touched.refused) from error
            raise
    if not is_all:
        assessment.note(
            "not all units were looked at, for the fix is refused already (check --all-reasons)"
        )
    return assessment.outcome(progress, is_all=is_all)


@dataclass(frozen=True, slots=True)
class _Work:
    """How units are assessed.

    Args:
        shadow: the source with the fix.
        objects: a folder for object files.
        most: so many may read what the fix changes; None for any number.
        thorough: go on although some speak against the fix.
        progress: told of the steps.
    """

    shadow: Shadow
    objects: Path
    most: int | None
    thorough: bool
    progress: Progress


def _assess(assessment: Assessment, touched: Touched, work: _Work) -> bool:
    """Assess the units of a fix until they speak against it.

    Its own and a few that read its headers come first: if a structure lies differently in memory,
    nobody waits for the thousand others.

    Args:
        touched: the first units.

    Returns:
        Whether all units were looked at.
    """
    kernel, shadow, progress = assessment.kernel, work.shadow, work.progress
    commands = learn(kernel, touched.units, progress)
    assessment.begin(commands, shadow)
    if not _take_in(assessment, commands, work, "first"):
        return False
    if touched.is_all:
        return True
    if assessment.is_refused() and not work.thorough:
        return False
    every = units_of(shadow.changes, kernel, progress, most=work.most, units_alone=True)
    for each in every.ignored:
        if each not in touched.ignored:
            assessment.note(f"{each.object}: {each.message}")
    others = learn(kernel, [unit for unit in every.units if unit not in commands], progress)
    return _take_in(assessment, others, work, "others")


def _take_in(
    assessment: Assessment, commands: Mapping[Unit, Command], work: _Work, name: str
) -> bool:
    """Assess units, some at a time; returns whether it were all: if one speaks against the fix,
    those behind it are left out.

    Args:
        name: of a folder for object files.
    """
    shadow, progress = work.shadow, work.progress
    reached = find_reached(assessment.kernel, commands, shadow, progress)
    count = len(reached.commands)
    is_long = count > max(reached.own, IN_A_BATCH)
    # A line for each batch's steps would say little.
    inner = progress.hidden() if is_long else progress
    began = time.monotonic()
    with ExitStack() as stack:
        overall = stack.enter_context(progress.step("judge the units", count)) if is_long else None
        batches = compile_touched(assessment.kernel, reached, shadow, work.objects / name, inner)
        stack.enter_context(closing(batches))
        for batch in batches:
            assessment.add(batch, shadow, inner)
            if overall is not None:
                overall.advance(batch.count)
                if overall.done == batch.count:
                    seconds = (time.monotonic() - began) / batch.count * (os.cpu_count() or 2)
                    progress.foretell(f"{count} units use what changes", count, seconds)
            if batch.left and assessment.is_refused() and not work.thorough:
                return False
    return True


def build(
    fixes: Sequence[Path],
    kernel: Kernel,
    *,
    output: Path,
    proof: bool = True,
    name: str | None = None,
    keep: Path | None = None,
    method: Method = Method.COMPARE,
    folder: Folder | None = None,
    units: int | None = None,
    progress: Progress = SILENT,
) -> Built:
    """Make a live patch of a fix.

    Args:
        output: the module's file; it appears there whole or not at all.
        name: the module's name; by default made from the file's.
        keep: as :func:`check` takes it.
        method, folder, units: as :func:`check` takes them.

    Raises:
        NothingChanged: the fix changes no code.
        Refused: it cannot be applied live; all reasons.
        ModuleError: kbuild or objtool complains.
        All that :func:`check` raises.
    """
    if name is not None:
        check_name(name)
    outcome = check(
        fixes,
        kernel,
        proof=proof,
        keep=keep,
        method=method,
        folder=folder,
        units=units,
        progress=progress,
    )
    return make(outcome, kernel, output=output, proof=proof, name=name, progress=progress)


def make(
    outcome: Outcome,
    kernel: Kernel,
    *,
    output: Path,
    proof: bool = True,
    name: str | None = None,
    progress: Progress = SILENT,
) -> Built:
    """Make a live patch of a fix that was checked; with both methods a second one beside it.

    Args:
        outcome: what :func:`check` found, with the same `proof`.
        output: the module's file; extract's second module is ``OUT.extract.ko`` beside it.

    Raises:
        As :func:`build`.
    """
    name = name or module_name(output.name)
    check_name(name)
    fixes = ", ".join(diff.name for diff in outcome.fix.diffs)
    if outcome.verdict is Verdict.REFUSED:
        raise Refused(fixes, outcome.reasons)
    if outcome.changes is None:
        raise NothingChanged(fixes, "changes no code of this kernel")
    second = None
    if outcome.second is not None:
        alone = replace(outcome, changes=outcome.second, second=None)
        beside = output.with_suffix(f".extract{output.suffix}")
        second = make(alone, kernel, output=beside, proof=proof, name=name, progress=progress)
    module = _build(outcome, outcome.changes, kernel, name, proof, progress)
    with progress.step("inspect"):
        inspection = write_module(module, output)
    return Built(outcome, output, len(module.data), inspection, second)


def _build(
    outcome: Outcome,
    changes: ChangeSet,
    kernel: Kernel,
    name: str,
    proof: bool,
    progress: Progress,
) -> Module:
    symvers = read_symvers(kernel.build / "Module.symvers")
    symbols = open_shipped(kernel, VMLINUX, progress).symbols

    def is_exported(symbol: str) -> bool:
        export = symvers.get(symbol)
        return export is not None and export.owner == VMLINUX

    build_ids = {
        each: open_module(kernel, each).build_id for each in changes.objects if each != VMLINUX
    }
    build_ids[VMLINUX] = open_image(kernel, progress).build_id
    changed = [each.target for each in changes.functions if each.state is State.CHANGED]
    return build_module(
        changes,
        name=name,
        kernel=kernel,
        identity=Identity(kernel.release, kernel.source_version, build_ids),
        provenance=Provenance(
            outcome.fix.sha256,
            tuple(sorted({piece.unit for piece in changes.pieces})),
            proof,
            str(kernel.config.get("CONFIG_CC_VERSION_TEXT", kernel.compiler)),
            version("livegraft"),
            tuple(each.unit for each in outcome.extracted if each.edited),
            outcome.advisory,
        ),
        is_exported=is_exported,
        positions={each: len(symbols.places(each)) for each in KERNEL_SYMBOLS},
        cold={
            each
            for each in changed
            if open_shipped(kernel, each.object, progress).symbols.places(each.name + COLD)
        },
        progress=progress,
    )
