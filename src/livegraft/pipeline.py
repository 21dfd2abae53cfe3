# SPDX-License-Identifier: GPL-2.0-or-later
"""The way through: from a fix and a kernel to a live patch. A table of contents of the rooms."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path

from livegraft.cache import Cache
from livegraft.changeset import (
    PATCH_SYMBOL,
    VMLINUX,
    ChangeSet,
    Function,
    Piece,
)
from livegraft.compare.comparison import Comparison
from livegraft.compare.cut import Cut, cut
from livegraft.compare.moved import compare_compiled
from livegraft.compare.resolver import OfPatch
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.errors import (
    CompileError,
    NothingChanged,
    NotPrepared,
    ProofFailed,
    Reason,
    Refused,
)
from livegraft.extract.delivery import own_names
from livegraft.extract.extraction import Extracted
from livegraft.extract.folder import Folder
from livegraft.extract.reasons import Why, explain_all
from livegraft.extract.work import Extraction
from livegraft.fix.compiled import Compiled, compile_touched
from livegraft.fix.fix import Fix
from livegraft.fix.includes import include_index
from livegraft.fix.kept import keep_objects
from livegraft.fix.units import units_of
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Object, Variant, compile_original, side_by_side
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.proof import prove
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kbuild.unproved import place_unproved
from livegraft.kernel import entrance
from livegraft.kernel.image import open_image
from livegraft.kernel.kernel import Kernel, open_prepared
from livegraft.kernel.kernel import prepare as prepare_kernel
from livegraft.kernel.modulefile import open_module
from livegraft.kernel.packages import PackageSource
from livegraft.kernel.references import Resolver
from livegraft.kernel.release import Release
from livegraft.kernel.shipped import open_shipped
from livegraft.kernel.symvers import read_symvers
from livegraft.module import ibt
from livegraft.module.advisory import UNNAMED, Advisory
from livegraft.module.build import KERNEL_SYMBOLS, Module, build_module, check_name, module_name
from livegraft.module.delivery import write_module
from livegraft.module.inspect import Inspection
from livegraft.module.manifest import Identity, Provenance
from livegraft.progress import SILENT, Progress
from livegraft.runtime.returning import NEEDED, cautions
from livegraft.verdict.globals import defined_twice
from livegraft.verdict.inlining import inlining
from livegraft.verdict.judge import judge_all, judge_delivered
from livegraft.verdict.marks import decisions_of, states_of


class Method(StrEnum):
    """How a patch is prepared."""

    COMPARE = "compare"
    """Two objects are compared, and what differs is cut out of one of them."""
    EXTRACT = "extract"
    """What differs is cut out of the source, and that is compiled."""
    BOTH = "both"
    """Both, which check each other."""


BESIDE_CODE = frozenset(
    (
        *("data-changed", "data-size-changed", "enum-value-changed", "prototype-changed"),
        "structure-layout",
    )
)
"""Rules after which a unit's code can still be judged."""


class Verdict(StrEnum):
    """What a fix is to a running kernel."""

    PATCHABLE = "patchable"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fix.

    Args:
        verdict: whether it can be applied live.
        functions: what the patch would bring.
        warnings: what the user should know although it is no reason to refuse.
        reasons: why it is refused, all of them.
        changes: what the module is made of; None unless patchable.
        fix: the fix.
        extracted: what was cut out of the source, if that was asked for.
        second: with both methods, what extract's module is made of; `changes` is compare's then.
        whys: by unit, why each function is in the set, if asked for; of extracted ones, see there.
        advisory: what others call the fix; its module tells it.
    """

    verdict: Verdict
    functions: tuple[Function, ...]
    warnings: tuple[str, ...]
    reasons: tuple[Reason, ...]
    changes: ChangeSet | None
    fix: Fix
    extracted: tuple[Extracted, ...] = ()
    second: ChangeSet | None = None
    whys: Mapping[str, tuple[Why, ...]] = field(default_factory=dict)
    advisory: Advisory = UNNAMED


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
    touched = units_of(changes, kernel, progress)
    commands = learn(kernel, touched.units, progress)
    warnings = [f"{each.object}: {each.message}" for each in touched.ignored]
    if not proof:
        warnings.append("the shipped code was not compared with the source (--no-proof)")
    with tempfile.TemporaryDirectory(prefix="livegraft-units-") as objects:
        try:
            with shadow_of(kernel.source, changes) as shadow:
                compiled, exports = compile_touched(
                    kernel, commands, shadow, Path(objects), progress
                )
                with progress.step("compare"):
                    comparisons = _compare_all(kernel, compiled, shadow)
        except CompileError as error:
            if touched.refused:  # it may be for a file that cannot be changed
                raise Refused(", ".join(map(str, fixes)), touched.refused) from error
            raise
        with progress.step("compile for the proof"):
            plain = _compile_plain(kernel, compiled, comparisons)
        reasons = [*touched.refused, *exports]
        extracted: dict[str, Extracted] = {}
        if method is not Method.COMPARE:
            work = Extraction(kernel, changes, folder, why, method is Method.BOTH, progress)
            extracted = _extract_all(work, compiled, comparisons, reasons)
        if keep is not None:
            keep_objects(plain, compiled, keep)
        whys: dict[str, tuple[Why, ...]] = {}
        if why and method is Method.COMPARE:
            pairs = zip(compiled, comparisons, strict=True)
            brought = [each for each in pairs if _is_brought(each[1])]
            whys = explain_all(kernel, changes, brought, progress)

    def conclude(taken: Method) -> Outcome:
        parts = extracted if taken is Method.EXTRACT else {}
        known = (list(reasons), list(warnings))
        units = (kernel, compiled, comparisons)
        return replace(_conclude(fix, *units, parts, taken, *known, proof, progress), whys=whys)

    if method is not Method.BOTH:
        return conclude(method)
    return _joined(conclude(Method.COMPARE), conclude(Method.EXTRACT), extracted)


def _joined(first: Outcome, second: Outcome, extracted: Mapping[str, Extracted]) -> Outcome:
    """What both methods say of a fix: it has to be patchable by each."""
    judged = first if first.verdict is not Verdict.PATCHABLE else second
    return replace(
        first,
        verdict=judged.verdict,
        reasons=judged.reasons,
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        extracted=tuple(extracted.values()),
        second=second.changes,
    )


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
    progress: Progress = SILENT,
) -> Built:
    """Make a live patch of a fix.

    Args:
        output: the module's file; it appears there whole or not at all.
        name: the module's name; by default made from the file's.
        keep: as :func:`check` takes it.
        method, folder: as :func:`check` takes them.

    Raises:
        NothingChanged: the fix changes no code.
        Refused: it cannot be applied live; all reasons.
        ModuleError: kbuild or objtool complains.
        All that :func:`check` raises.
    """
    if name is not None:
        check_name(name)
    outcome = check(
        fixes, kernel, proof=proof, keep=keep, method=method, folder=folder, progress=progress
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


def _compile_plain(
    kernel: Kernel, compiled: Sequence[Compiled], comparisons: Sequence[Comparison]
) -> dict[Unit, Object]:
    """What has to be proved, as it was shipped; kept in the cache."""
    pairs = zip(compiled, comparisons, strict=True)
    brought = [each for each, comparison in pairs if _is_brought(comparison)]
    objects = side_by_side(
        partial(compile_original, kernel, each.command, Variant.PLAIN) for each in brought
    )
    return {each.unit: plain for each, plain in zip(brought, objects, strict=True)}


def _extract_all(
    work: Extraction,
    compiled: Sequence[Compiled],
    comparisons: Sequence[Comparison],
    reasons: list[Reason],
) -> dict[str, Extracted]:
    """What is cut out of the source, by unit; nothing of a fix that is refused in any case.

    Args:
        reasons: why it is refused; what cannot be cut out is added.
    """
    pairs = list(zip(compiled, comparisons, strict=True))
    if reasons or any(comparison.reasons for _, comparison in pairs):
        return {}
    extracted, found = work.run([pair for pair in pairs if _is_brought(pair[1])])
    reasons += found
    return extracted


def _is_brought(comparison: Comparison) -> bool:
    """Whether the patch would bring something of a unit.

    What speaks against its data and types only does not keep us from looking at its code.
    """
    differs = bool(comparison.changed or comparison.new)
    return differs and all(reason.rule in BESIDE_CODE for reason in comparison.reasons)


def _compare_all(kernel: Kernel, compiled: Sequence[Compiled], shadow: Shadow) -> list[Comparison]:
    facts = {each.unit.path: compare_compiled(kernel, each, shadow) for each in compiled}
    return list(judge_all(facts).values())


def _conclude(
    fix: Fix,
    kernel: Kernel,
    compiled: Sequence[Compiled],
    comparisons: Sequence[Comparison],
    extracted: Mapping[str, Extracted],
    method: Method,
    reasons: list[Reason],
    warnings: list[str],
    proof: bool,
    progress: Progress,
) -> Outcome:
    cuts: list[Cut] = []
    for comparison in comparisons:
        reasons += comparison.reasons
    brought = frozenset({PATCH_SYMBOL}).union(*(each.new_globals for each in comparisons))
    for each, comparison in zip(compiled, comparisons, strict=True):
        warnings += comparison.warnings
        if not _is_brought(comparison):
            continue
        taken = comparison
        if each.unit.path in extracted:
            taken = judge_delivered(extracted[each.unit.path].comparison, comparison.warnings)
        plain = elf.read(compile_original(kernel, each.command, Variant.PLAIN).path)
        try:
            places = _places(kernel, each, plain, proof, progress)
        except ProofFailed:
            if reasons:
                continue  # what is known already is worth more than nothing
            raise
        reasons += inlining(plain, comparison)
        reasons += defined_twice(places, comparison)
        with progress.step("cut"):
            try:
                own = own_names(comparison) if taken is not comparison else frozenset[str]()
                resolver = OfPatch(Resolver(kernel, places, progress), brought, own)
                cuts.append(cut(taken, each.unit.path, each.unit.object, resolver))
            except Refused as refused:
                reasons += refused.reasons
    for made in cuts:
        warnings += made.warnings
    pieces = tuple(made.piece for made in cuts)
    if kernel.config.enabled(entrance.SETTING):
        entrances = entrance.Entrances(kernel, progress)
        reasons += [reason for piece in pieces for reason in ibt.check_piece(piece, entrances)]
    functions = tuple(function for piece in pieces for function in piece.functions)
    if reasons:
        kept = tuple(dict.fromkeys(reasons))
        return Outcome(Verdict.REFUSED, functions, tuple(warnings), kept, None, fix)
    if not any(function.symbol for function in functions) and not any(
        piece.callbacks for piece in pieces
    ):
        return Outcome(Verdict.UNCHANGED, functions, tuple(warnings), (), None, fix)
    warnings += _cautions(kernel, pieces, progress)
    changes = ChangeSet(
        method.value, pieces, tuple(warnings), states_of(comparisons), decisions_of(comparisons)
    )
    cut_out = tuple(extracted.values())
    return Outcome(Verdict.PATCHABLE, functions, tuple(warnings), (), changes, fix, cut_out)


def _cautions(kernel: Kernel, pieces: Iterable[Piece], progress: Progress) -> tuple[str, ...]:
    """What the patch forbids the running kernel's modules."""
    modules = sorted({each.owner for piece in pieces for each in piece.references} - {VMLINUX})
    symbols = open_shipped(kernel, VMLINUX, progress).symbols
    return cautions(modules) if modules and not symbols.places(NEEDED) else ()


def _places(
    kernel: Kernel, each: Compiled, plain: ElfObject, proof: bool, progress: Progress
) -> Placement:
    if proof:
        return prove(kernel, each.unit.path, each.unit.object, plain, progress)
    return place_unproved(kernel, each.unit.path, each.unit.object, plain, progress)


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
        progress=progress,
    )
