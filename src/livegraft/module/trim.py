# SPDX-License-Identifier: GPL-2.0-or-later
"""Leave out of a module what nobody reads at run time."""

from __future__ import annotations

import numpy as np

from livegraft.elf.header import SectionType
from livegraft.elf.object import Binding, ElfObject, Symbol, SymbolType
from livegraft.errors import ModuleError

_INFORMATION = "__UNIQUE_ID_"
"""How the names of ``MODULE_INFO()`` and the like begin (include/linux/compiler-gcc.h)."""


def drop_unloaded_sections(obj: ElfObject) -> None:
    """Remove the sections that the kernel does not load: debug information, comments; and the
    symbols that tell nobody anything.

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
    """Remove the symbols of sections that go, and those that nobody looks for."""
    used = {0}.union(
        *(s.relocations["symbol"].tolist() for n, s in enumerate(obj.sections) if n not in gone)
    )
    kept = [
        n
        for n, symbol in enumerate(obj.symbols)
        if n in used or not (_is_idle(symbol) or (symbol.in_section and symbol.section in gone))
    ]
    numbers = np.full(len(obj.symbols), -1, dtype="i8")
    numbers[kept] = np.arange(len(kept))
    for n, section in enumerate(obj.sections):
        if n in gone or not len(section.relocations):
            continue
        section.relocations = section.relocations.copy()
        renumbered = numbers[section.relocations["symbol"]]
        section.relocations["symbol"] = renumbered
    for n in kept:
        symbol = obj.symbols[n]
        if symbol.in_section:
            if symbol.section in gone:
                raise ModuleError(symbol.name or "a section", "is needed and not loaded")
            symbol.section = sections[symbol.section]
    obj.symbols = [obj.symbols[n] for n in kept]


def _is_idle(symbol: Symbol) -> bool:
    """Whether nobody needs a symbol that no relocation refers to: what names a file, a section or
    a piece of module information."""
    if symbol.type in (SymbolType.FILE, SymbolType.SECTION):
        return True
    return symbol.binding == Binding.LOCAL and symbol.name.startswith(_INFORMATION)
