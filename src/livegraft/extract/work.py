# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut the live patch of a whole fix out of the source: all units that it changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from livegraft.compare.comparison import Comparison
from livegraft.errors import Reason, Refused
from livegraft.extract.ahead import Ahead
from livegraft.extract.edited import beyond
from livegraft.extract.emission import Text
from livegraft.extract.extraction import Extracted, extract
from livegraft.extract.folder import Folder
from livegraft.extract.reasons import explain
from livegraft.extract.rebuilding import rebuilder
from livegraft.extract.twoways import compare_ways, unknown
from livegraft.fix.compiled import Compiled
from livegraft.kbuild.command import Command
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree
from livegraft.progress import Progress

COMPARING = "compare both ways"
"""The step of what is done for that alone."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is to be cut out.

    Args:
        kernel: the kernel's trees.
        folder: texts to take instead of cutting them out; None if there are none.
        why: whether to find out why each function is in the patch, which takes two compilations.
        both: whether to compare each function with that of the patched unit.
        progress: told of the steps.
        ahead: parses units while they are compiled.
    """

    kernel: KernelTree
    folder: Folder | None
    why: bool
    both: bool
    progress: Progress
    ahead: Ahead

    cut_out: dict[str, Extracted] = field(default_factory=dict)
    """By path, what was cut out so far: of a unit that is in several objects once for all."""

    def begin(self, commands: Mapping[Unit, Command], shadow: Shadow) -> None:
        """Begin to read what may have to be cut out, before it is compiled and compared.

        Args:
            commands: how units are compiled.
            shadow: the source with the fix.
        """
        if self.folder is None:
            self.ahead.begin(self.kernel, commands, shadow)

    def run(
        self, units: Collection[tuple[Compiled, Comparison]], shadow: Shadow
    ) -> tuple[dict[Unit, Extracted], list[Reason]]:
        """Cut.

        Args:
            units: those that the patch brings something of, compared.
            shadow: the source with the fix.

        Returns:
            What was cut out, by unit, and why the rest cannot be.

        Raises:
            CompileError: what was cut out, or edited, does not compile.
            FixError: the folder has no text for one of these units.
        """
        if self.folder is not None:
            self.folder.check_units({*self.folder.texts, *(each.unit.path for each, _ in units)})
        found: dict[Unit, Extracted] = {}
        reasons: list[Reason] = []
        with self.progress.step("cut out of the source"):
            for each, comparison in units:
                try:
                    made = self._extract(each, comparison, shadow)
                except Refused as refused:
                    reasons += refused.reasons
                    continue
                found[each.unit] = made
                reasons += unknown(each.unit.path, made.ways)
        return found, reasons

    def check_folder(self, brought: Iterable[str]) -> None:
        """Whether the folder is of the units that the fix brings something of.

        Raises:
            FixError: it has a text for another one.
        """
        if self.folder is not None:
            self.folder.check_units(frozenset(brought))

    def _extract(self, each: Compiled, comparison: Comparison, shadow: Shadow) -> Extracted:
        unit = each.unit.path
        given = self.folder.texts[unit] if self.folder is not None else None
        is_edited = self.folder is not None and unit in self.folder.edited
        first = self.cut_out.get(unit)
        if first is not None and given is None:
            given = Text(first.text, first.header)
        made = extract(self.kernel, each, comparison, shadow, given, is_edited, self.ahead)
        if first is not None:
            made = replace(made, slice=first.slice)
            if made.patched != first.patched or comparison.changed != first.changed:
                raise Refused(unit, [_otherwise(each.unit)])
        if is_edited:
            made = replace(made, edited=True)
            cut = extract(self.kernel, each, comparison, shadow)
            reasons = tuple(beyond(cut.comparison, made.comparison, comparison))
            if reasons:
                raise Refused(unit, reasons)
        if self.why:
            whys = explain(self.kernel, each, comparison, shadow, self.progress)
            made = replace(made, whys=whys)
        if self.both:
            again = rebuilder(self.kernel, each, comparison, shadow, made)
            with self.progress.step(COMPARING):
                made = replace(made, ways=compare_ways(comparison, made.comparison, again))
        self.cut_out.setdefault(unit, made)
        return made


def _otherwise(unit: Unit) -> Reason:
    """Why a text that was cut out for one object is none for another."""
    return Reason(
        "not-extracted",
        unit.path,
        f"is compiled otherwise for {unit.object} than for another object that it is linked into",
        "prepare the patch with --method compare",
    )
