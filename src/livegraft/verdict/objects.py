# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for what an object holds beside functions and variables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.elf.header import SectionType
from livegraft.elf.object import Symbol
from livegraft.errors import Reason

REPORT = "boot a kernel with the fix, and report this with the name of the kernel's release"


BTF_NUMBER = re.compile(r"__\d+$")
"""What ``__ID()`` of include/linux/btf_ids.h appends to keep names apart."""


def oddities(comparison: Comparison) -> Iterator[Reason]:
    """What the comparison does not understand cannot be shown to be safe."""
    for odd in comparison.oddities:
        yield Reason(odd.rule, odd.object, odd.message, REPORT)


def unknown_section(comparison: Comparison) -> Iterator[Reason]:
    """Code that depends on a section of which nobody knows who reads it."""
    for name in comparison.changed_sections:
        known = (sections.is_initial, sections.is_export, sections.is_runtime_constant)
        if not any(is_known(name) for is_known in known):
            yield Reason("unknown-section", name, "has other contents than before", REPORT)
    unit, inclusion = comparison.patched, comparison.inclusion
    for entity in inclusion.in_order():
        name = unit.section(entity).name
        is_known = sections.is_copyable(name) or sections.is_tracepoint(name)
        if entity.kind in (Kind.DATA, Kind.ANONYMOUS) and not is_known:
            text = f"is needed by the new code and lies in {name}, which is not known"
            yield Reason("unknown-section", entity.name or name, text, REPORT)
    for owner, function in _places_in_functions(unit):
        if not inclusion.is_included(owner) and function in inclusion.functions:
            name = unit.section(owner).name
            if sections.is_runtime_constant(name):
                continue
            text = f"{name}, which is not known, holds a place inside of its code"
            yield Reason("unknown-section", function.top.name, text, REPORT)


def runtime_constant(comparison: Comparison) -> Iterator[Reason]:
    """``shr $12, %eax`` for d_hash() of fs/dcache.c: the boot writes d_hash_shift there.

    Units that livegraft compiles read the variable instead (livegraft.kbuild.compile).
    """
    unit, inclusion = comparison.patched, comparison.inclusion
    for owner, function in _places_in_functions(unit):
        name = unit.section(owner).name
        if sections.is_runtime_constant(name) and function in inclusion.functions:
            constant = sections.runtime_constant(name)
            text = f"the kernel writes {constant} into its code, and only while it boots"
            remedy = "let livegraft compile it (livegraft check), so that it reads the variable"
            yield Reason("runtime-const", function.top.name, text, remedy)


def _places_in_functions(unit: Unit) -> Iterator[tuple[Entity, Entity]]:
    """Variables and sections that point into the middle of functions."""
    is_owner = np.isin(unit.kinds, (Kind.DATA, Kind.ANONYMOUS))
    may_be = is_owner[unit.owner] & (unit.target >= 0) & (unit.delta != 0)
    for position in np.flatnonzero(may_be).tolist():
        target = unit.entities[unit.target[position]]
        if target.kind is Kind.FUNCTION:
            yield unit.entities[unit.owner[position]], target


def section_groups(comparison: Comparison) -> Iterator[Reason]:
    """New or changed section groups (COMDAT)."""
    before, after = _groups(comparison.original), _groups(comparison.patched)
    for name in sorted((after - before) | (before - after)):
        text = "is a section group that the other object does not have"
        yield Reason("section-group", name, text, REPORT)


def _groups(unit: Unit) -> Counter[str]:
    """Groups by the names of their signatures."""
    return Counter(
        unit.obj.symbols[section.info].name or section.name
        for section in unit.obj.sections
        if section.type == SectionType.GROUP
    )


def _btf_ids(unit: Unit) -> list[Symbol]:
    return [each for each in unit.obj.symbols if each.name.startswith("__BTF_ID__")]


def btf_ids(comparison: Comparison) -> Iterator[Reason]:
    """``BTF_ID_LIST()``: numbers that are filled in when the kernel is linked."""
    before, after = (
        [
            BTF_NUMBER.sub("", symbol.name)
            for symbol in sorted(_btf_ids(unit), key=lambda each: (each.section, each.value))
        ]
        for unit in (comparison.original, comparison.patched)
    )
    if before != after:
        text = "lists other BTF types, whose numbers only the kernel's link fills in"
        yield Reason("btf-ids", ".BTF_ids", text, "boot a kernel with the fix")
