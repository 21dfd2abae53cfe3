# SPDX-License-Identifier: GPL-2.0-or-later
"""Leave out of a module what nobody reads at run time."""

from __future__ import annotations

import numpy as np

from livegraft.elf.header import SectionType
from livegraft.elf.object import ElfObject, SymbolType
from livegraft.errors import ModuleError


def drop_unloaded_sections(obj: ElfObject) -> None:
    """Remove the sections that the kernel does not load: debug information, comments.

    Sections and symbols are numbered anew, which is allowed only as long as nothing outside of the
    object refers to a number: before livepatch relocations are written.

    Raises:
        ModuleError: something that stays refers to something that goes.
    """
    gone = {
        number
        for number, section in enumerate(obj.sections)
        if number and not section.is_alloc and section.type != SectionType.NULL
    }
    if not gone:
        return
    for section in obj.sections:
        if section.type == SectionType.GROUP:
            raise ModuleError(section.name, "section groups are not expected in a linked module")
    kept = [n for n in range(len(obj.sections)) if n not in gone]
    sections = {old: new for new, old in enumerate(kept)}
    _drop_symbols(obj, gone, sections)
    for number in kept:
        section = obj.sections[number]
        if section.link in gone or section.info in gone:
            raise ModuleError(section.name, "refers to a section that is not loaded")
        section.link = sections[section.link]
        section.info = sections[section.info]
    obj.sections = [obj.sections[n] for n in kept]


def _drop_symbols(obj: ElfObject, gone: set[int], sections: dict[int, int]) -> None:
    """Remove the symbols of sections that go, and those that name a source file."""
    kept = [
        n
        for n, symbol in enumerate(obj.symbols)
        if symbol.type != SymbolType.FILE and not (symbol.in_section and symbol.section in gone)
    ]
    numbers = np.full(len(obj.symbols), -1, dtype="i8")
    numbers[kept] = np.arange(len(kept))
    for n, section in enumerate(obj.sections):
        if n in gone or not len(section.relocations):
            continue
        section.relocations = section.relocations.copy()
        renumbered = numbers[section.relocations["symbol"]]
        if (renumbered < 0).any():
            raise ModuleError(section.name, "refers to a section that is not loaded")
        section.relocations["symbol"] = renumbered
    for n in kept:
        symbol = obj.symbols[n]
        if symbol.in_section:
            symbol.section = sections[symbol.section]
    obj.symbols = [obj.symbols[n] for n in kept]
