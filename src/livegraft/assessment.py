# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix is to a running kernel: its units one batch after the other, and what they are
together.

Of a batch that was judged only its pieces and what was found out are kept, so that a fix of a
thousand units needs no more memory than one of twenty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from livegraft.changeset import PATCH_SYMBOL, VMLINUX, ChangeSet, Function, Piece
from livegraft.compare.comparison import Comparison
from livegraft.compare.cut import BESIDE_CODE, Cut, cut
from livegraft.compare.marks import Marks
from livegraft.compare.moved import compare_compiled
from livegraft.compare.resolver import OfPatch
from livegraft.elf import object as elf
from livegraft.errors import ProofFailed, Reason, Refused
from livegraft.extract.delivery import own_names
from livegraft.extract.extraction import Extracted
from livegraft.extract.reasons import Why, explain_all
from livegraft.extract.work import Extraction
from livegraft.fix.compiled import Batch, Compiled
from livegraft.fix.fix import Fix
from livegraft.fix.kept import keep_objects
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import Object, Variant, compile_original, side_by_side
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.proof import prove
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.unproved import place_unproved
from livegraft.kernel import entrance
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.references import Resolver
from livegraft.kernel.shipped import open_shipped
from livegraft.module import ibt
from livegraft.module.advisory import UNNAMED, Advisory
from livegraft.progress import Progress
from livegraft.runtime.returning import NEEDED, cautions
from livegraft.verdict.globals import defined_twice
from livegraft.verdict.inlining import inlining
from livegraft.verdict.judge import Judge, judge_delivered
from livegraft.verdict.marks import decisions_of, states_of


class Method(StrEnum):
    """How a patch is prepared."""

    COMPARE = "compare"
    """Two objects are compared, and what differs is cut out of one of them."""
    EXTRACT = "extract"
    """What differs is cut out of the source, and that is compiled."""
    BOTH = "both"
    """Both, which check each other."""

    @property
    def each(self) -> tuple[Method, ...]:
        """The one, or the two."""
        return (Method.COMPARE, Method.EXTRACT) if self is Method.BOTH else (self,)


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
class Question:
    """What is asked of a fix.

    Args:
        fix: the fix.
        kernel: the prepared kernel.
        method: how the patch is prepared.
        proof: prove that the unpatched units are the shipped code.
        why: find out why each function is in the set.
        keep: a folder for the objects of what is changed; None to keep none.
    """

    fix: Fix
    kernel: Kernel
    method: Method
    proof: bool
    why: bool
    keep: Path | None


@dataclass(slots=True)
class _Way:
    """What one method has made so far."""

    cuts: list[Cut] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)


class Assessment:
    """Takes in the units of a fix.

    Args:
        question: what is asked.
        extraction: cuts out of the source, if that is how the patch is prepared.
        reasons: why the fix is refused whatever its units say.
        warnings: what is known before.
    """

    def __init__(
        self,
        question: Question,
        extraction: Extraction,
        reasons: Iterable[Reason],
        warnings: Iterable[str],
    ) -> None:
        self._question = question
        self.kernel = question.kernel
        self._extraction = extraction
        self._reasons = list(reasons)
        self._warnings = list(warnings)
        self._judge = Judge()
        self._ways = {method: _Way() for method in question.method.each}
        self._new_globals = {PATCH_SYMBOL}
        self._marks: list[Marks] = []
        self._extracted: dict[Unit, Extracted] = {}
        self._whys: dict[str, tuple[Why, ...]] = {}

    def begin(self, commands: Mapping[Unit, Command], shadow: Shadow) -> None:
        """What can be done of units before they are compiled.

        Args:
            commands: how they are compiled.
            shadow: the source with the fix.
        """
        if self._question.method is not Method.COMPARE:
            self._extraction.begin(commands, shadow)

    def add(self, batch: Batch, shadow: Shadow, progress: Progress) -> None:
        """Take in some units.

        Args:
            shadow: the source with the fix.
            progress: told of the steps.

        Raises:
            CompileError: one does not compile as it was shipped, or what was cut out of it.
            ProofFailed: it is not what was shipped, and nothing else speaks against the fix.
        """
        compiled = batch.compiled
        with progress.step("compare"):
            facts = {e.unit.name: compare_compiled(self.kernel, e, shadow) for e in compiled}
            comparisons = list(self._judge.each(facts).values())
        brought = [p for p in zip(compiled, comparisons, strict=True) if _is_brought(p[1])]
        with progress.step("compile for the proof"):
            plain = _compile_plain(self.kernel, [each for each, _ in brought])
        self._reasons += batch.exports
        for found in comparisons:
            self._reasons += found.reasons
            self._warnings += found.warnings
            self._marks.append(found.marks)
            self._new_globals |= found.new_globals
        extracted = self._extract(brought, shadow)
        if self._question.keep is not None:
            keep_objects(plain, compiled, self._question.keep)
        if self._question.why and self._question.method is Method.COMPARE:
            self._whys |= explain_all(self.kernel, shadow.changes, brought, progress)
        for each, comparison in brought:
            self._cut(each, comparison, plain[each.unit], extracted.get(each.unit), progress)

    def is_refused(self) -> bool:
        """Whether the units so far speak against the fix."""
        return bool(self._known(is_all=False)[0]) or any(w.reasons for w in self._ways.values())

    def note(self, warning: str) -> None:
        """Something that the user should know."""
        self._warnings.append(warning)

    def outcome(self, progress: Progress, *, is_all: bool = True) -> Outcome:
        """What the units are together.

        Args:
            is_all: whether all of them were taken in.

        Raises:
            FixError: the folder of an extracted patch has a text for another unit.
        """
        reasons, warnings = self._known(is_all=is_all)
        if not reasons:
            self._extraction.check_folder(each.path for each in self._extracted)
        first, *others = (
            replace(self._conclude(method, reasons, warnings, progress), whys=self._whys)
            for method in self._ways
        )
        return _joined(first, others[0], self._texts()) if others else first

    def _known(self, *, is_all: bool) -> tuple[list[Reason], list[str]]:
        """Reasons and warnings of whichever method."""
        shared, remarks = self._judge.together(is_all=is_all)
        return [*self._reasons, *shared], [*self._warnings, *remarks]

    def _extract(
        self, brought: Sequence[tuple[Compiled, Comparison]], shadow: Shadow
    ) -> dict[Unit, Extracted]:
        """What is cut out of the source; nothing of a fix that is refused in any case."""
        if self._question.method is Method.COMPARE or self._known(is_all=False)[0]:
            return {}
        extracted, found = self._extraction.run(brought, shadow)
        self._reasons += found
        self._extracted |= extracted
        return extracted

    def _texts(self) -> tuple[Extracted, ...]:
        """What was cut out, once for each unit, in however many objects it is."""
        return tuple({each.unit: each for each in reversed(self._extracted.values())}.values())[
            ::-1
        ]

    def _cut(
        self,
        each: Compiled,
        comparison: Comparison,
        compiled: Object,
        extracted: Extracted | None,
        progress: Progress,
    ) -> None:
        """Prove a unit, and cut what each method brings of it."""
        unit, kernel = each.unit, self.kernel
        plain = elf.read(compiled.path)
        place = prove if self._question.proof else place_unproved
        try:
            places: Placement = place(kernel, unit.path, unit.object, plain, progress)
        except ProofFailed:
            if self.is_refused():
                return  # what is known already is worth more than nothing
            raise
        self._reasons += [*inlining(plain, comparison), *defined_twice(places, comparison)]
        for method, way in self._ways.items():
            taken, own = comparison, frozenset[str]()
            if method is Method.EXTRACT and extracted is not None:
                taken = judge_delivered(extracted.comparison, comparison.warnings)
                own = own_names(comparison)
            with progress.step("cut"):
                resolver = OfPatch(Resolver(kernel, places, progress), self._new_globals, own)
                try:
                    way.cuts.append(cut(taken, unit.path, unit.object, resolver, unit.is_shared))
                except Refused as refused:
                    way.reasons += refused.reasons

    def _conclude(
        self,
        method: Method,
        known: Sequence[Reason],
        warned: Sequence[str],
        progress: Progress,
    ) -> Outcome:
        way, kernel, fix = self._ways[method], self.kernel, self._question.fix
        reasons = [*known, *way.reasons]
        warnings = [*warned, *(text for made in way.cuts for text in made.warnings)]
        pieces = tuple(made.piece for made in way.cuts)
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
            method.value,
            pieces,
            tuple(warnings),
            states_of(self._marks),
            decisions_of(self._marks),
        )
        cut_out = self._texts() if method is Method.EXTRACT else ()
        return Outcome(Verdict.PATCHABLE, functions, tuple(warnings), (), changes, fix, cut_out)


def _is_brought(comparison: Comparison) -> bool:
    """Whether the patch would bring something of a unit.

    What speaks against its data and types only does not keep us from looking at its code.
    """
    differs = bool(comparison.changed or comparison.new)
    return differs and all(reason.rule in BESIDE_CODE for reason in comparison.reasons)


def _compile_plain(kernel: Kernel, brought: Sequence[Compiled]) -> dict[Unit, Object]:
    """What has to be proved, as it was shipped; kept in the cache."""
    objects = side_by_side(
        partial(compile_original, kernel, each.command, Variant.PLAIN) for each in brought
    )
    return {each.unit: plain for each, plain in zip(brought, objects, strict=True)}


def _joined(first: Outcome, second: Outcome, extracted: tuple[Extracted, ...]) -> Outcome:
    """What both methods say of a fix: it has to be patchable by each."""
    judged = first if first.verdict is not Verdict.PATCHABLE else second
    return replace(
        first,
        verdict=judged.verdict,
        reasons=judged.reasons,
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        extracted=extracted,
        second=second.changes,
    )


def _cautions(kernel: Kernel, pieces: Iterable[Piece], progress: Progress) -> tuple[str, ...]:
    """What the patch forbids the running kernel's modules."""
    modules = sorted({each.owner for piece in pieces for each in piece.references} - {VMLINUX})
    symbols = open_shipped(kernel, VMLINUX, progress).symbols
    return cautions(modules) if modules and not symbols.places(NEEDED) else ()
