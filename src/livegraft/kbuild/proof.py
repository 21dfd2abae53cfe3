# SPDX-License-Identifier: GPL-2.0-or-later
"""Prove before you patch: the unit as compiled here is the code that the distribution shipped.

The unpatched unit, compiled with the exact flags, is placed in the shipped image or module: each of
its sections lies there in one stretch. Then all bytes outside of relocations are compared, and each
relocation's value in the shipped code has to be what its symbol means. So the same walk tells
exactly which symbol of the running kernel each symbol of the unit is.
"""

from __future__ import annotations

import numpy as np

from livegraft.elf.header import SectionFlag
from livegraft.elf.object import Binding, ElfObject, Symbol, SymbolType
from livegraft.errors import ElfError, ProofFailed
from livegraft.kbuild.difference import Difference, compare_bytes, compare_references, parts
from livegraft.kbuild.meaning import (
    Meaning,
    References,
    SymbolArrays,
    follow,
    references_of,
    symbol_arrays,
)
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.placing import Layout, place_by_names, telling
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.shipped import FIELD_SIZE, Shipped, open_shipped
from livegraft.progress import SILENT, Progress

_REMEDY = (
    "the compiler, the configuration or the source is not the one that the kernel was built with; "
    "compare them, or build with --no-proof at your own risk"
)

_TABLES = (
    *(".discard", ".note", ".modinfo", ".export_symbol", ".BTF_ids", ".initcall", ".init.setup"),
    *("___ksymtab", "___kcrctab", "__mcount_loc", "__patchable_function_entries", "__ex_table"),
    *("__bug_table", "__jump_table", ".smp_locks", ".parainstructions", ".altinstructions"),
    *(".static_call_sites", ".static_call_tramp_key", "__tracepoints_ptrs", "__param", "runtime_"),
)
"""Sections (by how their names start) of tables that the linker drops, sorts or collects, or that
are consumed at boot. No code refers to them by an address, so none has to be placed."""


def prove(
    kernel: Kernel,
    unit_path: str,
    object_name: str,
    plain: ElfObject,
    progress: Progress = SILENT,
) -> Placement:
    """Prove that a compiled unit is the shipped code, and tell where each symbol of it is.

    Args:
        kernel: the kernel.
        unit_path: the translation unit (``fs/ext4/mballoc.c``).
        object_name: ``vmlinux``, or the module that it is linked into.
        plain: the unpatched unit, compiled with the exact flags; objtool has not run on it.

    Raises:
        ProofFailed: it is not; with each function that differs, and how.
        KernelError, ImageError: the shipped code cannot be read.
        ElfError: the object has a relocation that is not known.
    """
    shipped = open_shipped(kernel, object_name, progress)
    with progress.step("prove"):
        return prove_against(shipped, unit_path, plain)


def prove_against(shipped: Shipped, unit_path: str, plain: ElfObject) -> Placement:
    """:func:`prove` with shipped code that is open."""
    sections = [n for n, s in enumerate(plain.sections) if s.is_alloc and s.size and _judged(plain, n)]
    _check_relocations(plain, unit_path, sections)
    layout = place_by_names(plain, shipped, sections)
    symbols = symbol_arrays(plain)
    references, extra = _place_all(plain, shipped, layout, symbols, sections)
    meaning = Meaning(plain, symbols, shipped, layout)
    meaning.settle(references)
    placed = [number for number in sections if number in layout.stretches]
    differences = compare_bytes(plain, shipped, layout, placed)
    compare_references(meaning, references, differences)
    for number, offsets in extra.items():
        differences[number].references.update(dict.fromkeys(offsets, "nothing"))
    judgement = _Judgement(plain, shipped, layout, meaning, differences)
    judgement.judge()
    if judgement.differing:
        raise ProofFailed(unit_path, judgement.differing, _REMEDY)
    return Placement(
        unit_path,
        shipped.symbols,
        judgement.places,
        meaning.externals,
        tuple(judgement.proven),
        tuple(sorted(meaning.overridden)),
        judgement.discarded,
        tuple(plain.sections[n].name for n in sections if n not in layout.stretches),
    )


def _judged(unit: ElfObject, number: int) -> bool:
    section = unit.sections[number]
    return not section.flags & SectionFlag.MERGE and not section.name.startswith(_TABLES)


def _check_relocations(unit: ElfObject, unit_path: str, sections: list[int]) -> None:
    for number in sections:
        section = unit.sections[number]
        for kind in np.unique(section.relocations["type"]).tolist():
            if kind not in FIELD_SIZE:
                raise ElfError(unit_path, f"{section.name}: relocation type {kind} is not known")


def _place_all(
    unit: ElfObject,
    shipped: Shipped,
    layout: Layout,
    symbols: SymbolArrays,
    sections: list[int],
) -> tuple[References, dict[int, list[int]]]:
    """Follow references from placed sections until no more sections are found by them.

    Returns:
        all references from placed sections, and per section the offsets of relocations that only
        the shipped code has.
    """
    references: list[References] = []
    extra: dict[int, list[int]] = {}
    pending = [number for number in sections if number in layout.stretches]
    while pending:
        found: list[References] = []
        for number in pending:
            relocations = unit.sections[number].relocations
            for start, end, place in parts(unit, layout, number):
                inside = (relocations["offset"] >= start) & (relocations["offset"] < end)
                moved = relocations[inside]
                moved["offset"] -= np.uint64(start)
                own, more = references_of(shipped, number, place, end - start, moved)
                own["offset"] += np.uint64(start)
                found.append(own)
                if len(more):
                    extra.setdefault(number, []).extend((more + np.uint64(start)).tolist())
        references += found
        placed = follow(layout, symbols, np.concatenate(found))
        pending = [number for number in placed if number in sections]
    return np.concatenate(references) if references else _none(), extra


def _none() -> References:
    from livegraft.kbuild.meaning import REFERENCE

    return np.empty(0, dtype=REFERENCE)


class _Judgement:
    """The verdict on each function and variable of a unit."""

    def __init__(
        self,
        unit: ElfObject,
        shipped: Shipped,
        layout: Layout,
        meaning: Meaning,
        differences: dict[int, Difference],
    ) -> None:
        self.unit = unit
        self.shipped = shipped
        self.layout = layout
        self.meaning = meaning
        self.differences = differences
        self.places: dict[str, int] = {}
        self.proven: list[str] = []
        self.discarded: dict[str, str] = {}
        self.differing: dict[str, str] = {}

    def judge(self) -> None:
        """Judge every function; and every variable if no function differs."""
        functions = [s for s in self.unit.symbols if s.in_section and s.type == SymbolType.FUNC]
        for symbol in functions:
            self._judge_function(symbol)
        for number, difference in self.differences.items():
            self._judge_rest(number, difference, self.unit.sections[number].is_code)
        if not self.differing:
            for number, difference in self.differences.items():
                if len(self.layout.stretches[number]) > 1:
                    name = self.unit.sections[number].name
                    self.differing[name] = "its symbols are not where they are here"
        self._collect_places()

    def _judge_function(self, symbol: Symbol) -> None:
        section = self.unit.sections[symbol.section]
        place = self.layout.place(symbol.section, symbol.value)
        if not section.is_alloc or section.name.startswith(".discard"):
            self.discarded[symbol.name] = f"lies in {section.name}, which is not linked"
        elif place is None:
            known = self.shipped.symbols.places(symbol.name)
            how = "its place cannot be told from others" if known else "is not there"
            self.differing[symbol.name] = f"{how} in {self.shipped.object}"
        elif (how := self._how(symbol.section, symbol.value, symbol.size)) is not None:
            self.differing[symbol.name] = how
        elif symbol.name in self.meaning.overridden:
            pass
        elif place not in self.shipped.symbols.places(symbol.name):
            self.differing[symbol.name] = f"is not in {self.shipped.object} at its place"
        else:
            self.proven.append(symbol.name)

    def _how(self, section: int, start: int, size: int) -> str | None:
        """How a range differs; None if it does not. What is found is taken out of the differences."""
        difference = self.differences.get(section)
        if difference is None:
            return "has no code there"
        bytes_differ = np.flatnonzero(difference.bytes_differ[start : start + size])
        wrong = {at: to for at, to in difference.references.items() if start <= at < start + size}
        if len(bytes_differ):
            first = int(bytes_differ[0])
            return f"{len(bytes_differ)} of {size} bytes differ, the first at +{first:#x}"
        if wrong:
            first = min(wrong)
            return f"refers to something else than {wrong[first]} at +{first - start:#x}"
        return None

    def _judge_rest(self, number: int, difference: Difference, is_code: bool) -> None:
        """What differs outside of functions: padding, code in assembly, variables."""
        differ = difference.bytes_differ.copy()
        differ[list(difference.references)] = True
        owners = [s for s in self.unit.symbols if s.section == number and telling(s) and s.size]
        if is_code:
            for symbol in owners:
                if symbol.type == SymbolType.FUNC:
                    differ[symbol.value : symbol.value + symbol.size] = False
        elif self.differing:
            return  # a function that differs moves variables: it is what has to be named
        for offset in np.flatnonzero(differ).tolist():
            before = [s for s in owners if s.value <= offset]
            owner = max(before, key=lambda s: s.value, default=None)
            name = owner.name if owner else self.unit.sections[number].name
            start = owner.value if owner else 0
            self.differing.setdefault(name, f"differs at +{offset - start:#x}")

    def _collect_places(self) -> None:
        twice: set[str] = set()
        for symbol in self.unit.symbols:
            if telling(symbol):
                place = self.layout.place(symbol.section, symbol.value)
                if place is None:
                    continue
                if self.places.setdefault(symbol.name, place) != place:
                    twice.add(symbol.name)
        for name in twice:
            del self.places[name]
