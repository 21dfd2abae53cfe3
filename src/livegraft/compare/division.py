# SPDX-License-Identifier: GPL-2.0-or-later
"""Divide the sections of an object into entities.

A section that symbols name is divided at them. Sections of strings and constants are divided as the
linker would do it to merge them, whatever symbols (``.LC0``) lie in them. Tables are divided into
entries, whose size follows from the distances of their relocations: it varies with the kernel's
version and configuration.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind, Oddity
from livegraft.elf.arch.architecture import Architecture, Table
from livegraft.elf.header import SHN_LORESERVE, SHN_XINDEX, SectionFlag, SectionType
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType
from livegraft.errors import ElfError

NamedSymbols = list[tuple[int, Symbol]]
"""Symbols with their numbers."""

_NO_NAME = (int(SymbolType.SECTION), int(SymbolType.FILE))

_ALLOC, _CODE, _MERGE, _STRINGS, _COMPRESSED = (
    int(flag)
    for flag in (
        SectionFlag.ALLOC,
        SectionFlag.EXECINSTR,
        SectionFlag.MERGE,
        SectionFlag.STRINGS,
        SectionFlag.COMPRESSED,
    )
)
"""As plain numbers: operations on enums take ten times as long, and objects have many sections."""

_UNDIVIDED = (int(SectionType.NULL), int(SectionType.GROUP))

_BEGINNING = 3
"""Characters of a section's name that tell most sections from those with a meaning of their own."""

_MOST_PARTS = 1 << 20
"""Strings or constants of a section; each takes memory for a hundred bytes of a file."""

_LABELS = (".L", "__BTF_ID__")
"""Names of places inside of others: strings of inline assembly, members of ``BTF_ID_LIST()``."""

_RANK: dict[int, int] = {Binding.GLOBAL: 0, Binding.LOCAL: 1, Binding.WEAK: 2}
"""Which of several symbols at one place gives an entity its name."""

_SECOND_NAMES = ("__mod_", "init_module", "cleanup_module")
"""Global names that macros give to what has one already: ``MODULE_DEVICE_TABLE()`` for modpost,
``module_init()`` for the loader."""


def symbols_by_section(obj: ElfObject, arch: Architecture) -> dict[int, NamedSymbols]:
    """The symbols that may name a part of each section."""
    found: dict[int, NamedSymbols] = {}
    labels = (*_LABELS, *arch.labels)
    for number, symbol in enumerate(obj.symbols):
        name, section = symbol.name, symbol.section
        if not name or not section or SHN_LORESERVE <= section <= SHN_XINDEX:
            continue  # as Symbol.in_section says, without a call for each
        if symbol.type not in _NO_NAME and not name.startswith(labels):
            found.setdefault(section, []).append((number, symbol))
    return found


def _special(arch: Architecture) -> frozenset[str]:
    """How the names of all sections begin that are not told by flags and symbols alone."""
    names = (*arch.tables, *arch.table_prefixes, *arch.snippets, *arch.constants)
    return frozenset(name[:_BEGINNING] for name in (*names, *sections.WITHOUT_MEANING))


def is_considered(section: Section, arch: Architecture) -> bool:
    """Whether a section takes part in the comparison."""
    if section.type in _UNDIVIDED or sections.is_without_meaning(section.name):
        return False
    return bool(
        int(section.flags) & _ALLOC
        or arch.table_of(section.name) is not None
        or len(section.relocations) > 0
    )


def divide(obj: ElfObject, arch: Architecture, oddities: list[Oddity]) -> dict[int, list[Entity]]:
    """The entities of each section but those of snippets, which references divide.

    Args:
        arch: the object's.
        oddities: where to put what is not understood.

    Raises:
        ElfError: a section that no compiler writes.
    """
    named = symbols_by_section(obj, arch)
    special = _special(arch)
    divided: dict[int, list[Entity]] = {}
    for index, section in enumerate(obj.sections):
        table, flags = None, int(section.flags)
        if section.name[:_BEGINNING] in special or not flags & _ALLOC or section.type in _UNDIVIDED:
            if not is_considered(section, arch) or arch.is_snippet(section.name):
                continue
            table = arch.table_of(section.name)
        if table is not None:
            found = _entries(index, section, table, oddities)
        elif flags & _MERGE and flags & _STRINGS:
            found = _strings(index, section)
        elif flags & _MERGE and section.entry_size:
            found = _constants(index, section, section.entry_size)
        elif section.name in arch.constants:
            found = _constants(index, section, arch.constants[section.name])
        elif index in named:
            listed = named[index]
            found = _only_symbol(index, section, listed) if len(listed) == 1 else []
            found = found or _symbols(index, section, listed, oddities)
            if arch.has_subsections:
                _add_tail(index, section, found)
        elif section.size:
            found = [Entity("", Kind.ANONYMOUS, index, 0, 0, section.size)]
        else:
            continue
        divided[index] = found
        if section.flags & _COMPRESSED or section.type == SectionType.RELA:
            raise ElfError(section.name, "is not as a compiler writes it")
    return divided


def _rank(symbol: Symbol) -> int:
    is_second = symbol.name.startswith(_SECOND_NAMES)
    return 4 if is_second else _RANK.get(symbol.binding, 3)


def _only_symbol(index: int, section: Section, listed: NamedSymbols) -> list[Entity]:
    """A section that is one function or variable, as most are; nothing if it is not so simple."""
    ((number, symbol),) = listed
    value, end = symbol.value, symbol.value + symbol.size
    if end > section.size or not symbol.size:
        return []
    if int(section.flags) & _CODE:
        return [Entity(symbol.name, Kind.FUNCTION, index, 0, value, end, number)]
    return [Entity(symbol.name, Kind.DATA, index, value, value, end, number)]


def _symbols(
    index: int, section: Section, listed: NamedSymbols, oddities: list[Oddity]
) -> list[Entity]:
    kind = Kind.FUNCTION if int(section.flags) & _CODE else Kind.DATA
    order = sorted(listed, key=lambda pair: (pair[1].value, -pair[1].size, _rank(pair[1])))
    found: list[Entity] = []
    aliases: dict[Entity, list[int]] = {}
    for number, symbol in order:
        last = found[-1] if found else None
        if last is not None and (symbol.value < last.end or symbol.value == last.value):
            if symbol.value == last.value:
                aliases.setdefault(last, []).append(number)
            elif symbol.type == SymbolType.FUNC:
                text = f"lies inside of {last.name}"
                oddities.append(Oddity("overlapping-symbols", symbol.name, text, last))
            continue
        start = symbol.value
        if kind is Kind.FUNCTION:
            start = last.end if last else 0
        end = symbol.value + symbol.size
        found.append(Entity(symbol.name, kind, index, start, symbol.value, end, number))
    for entity, numbers in aliases.items():
        entity.aliases = tuple(numbers)
    for position, entity in enumerate(found):
        if entity.size == 0:  # symbols of assembly have no size
            follower = found[position + 1].value if position + 1 < len(found) else section.size
            entity.end = max(follower, entity.value)
        if position + 1 < len(found) and kind is Kind.FUNCTION:
            found[position + 1].start = entity.end
        if entity.end > section.size:
            text = f"reaches beyond its section {section.name}"
            oddities.append(Oddity("relocation-out-of-range", entity.name, text, entity))
            entity.end = section.size
    return found


def _add_tail(index: int, section: Section, found: list[Entity]) -> None:
    """What lies behind all functions, in another subsection, belongs to the only one, or to any."""
    last = found[-1]
    if last.kind is not Kind.FUNCTION or last.end >= section.size:
        return
    if len(found) == 1:
        last.end = section.size
    else:
        found.append(Entity("", Kind.SNIPPET, index, last.end, last.end, section.size))


def _strings(index: int, section: Section) -> list[Entity]:
    ends = np.flatnonzero(np.frombuffer(section.data, dtype="u1") == 0) + 1
    _check_count(section, len(ends))
    bounds = [0, *ends.tolist()]
    if bounds[-1] < section.size:
        bounds.append(section.size)
    kind = Kind.STRING
    return [Entity("", kind, index, start, start, end) for start, end in pairwise(bounds)]


def _check_count(section: Section, count: int) -> None:
    if count > _MOST_PARTS:
        raise ElfError(section.name, f"has {count} parts, more than any kernel object")


def _constants(index: int, section: Section, size: int) -> list[Entity]:
    _check_count(section, section.size // size)
    return [
        Entity("", Kind.CONSTANT, index, start, start, min(start + size, section.size))
        for start in range(0, section.size, size)
    ]


def with_snippets(
    obj: ElfObject,
    arch: Architecture,
    divided: dict[int, list[Entity]],
    is_snippet: npt.NDArray[np.bool_],
) -> list[int]:
    """The sections of snippets, and those that end with some.

    Args:
        is_snippet: of each section, whether it is one of snippets.
    """
    found = [n for n in np.flatnonzero(is_snippet).tolist() if obj.sections[n].size]
    if arch.has_subsections:
        ends = ((n, each[-1]) for n, each in divided.items() if each)
        found += [n for n, last in ends if last.kind is Kind.SNIPPET]
    return found


def snippets(index: int, start: int, end: int, starts: set[int]) -> list[Entity]:
    """The parts of a section, or of the end of one, that consists of snippets.

    Args:
        starts: the places that are referred to.
    """
    bounds = sorted({start, *(at for at in starts if start < at < end), end})
    return [Entity("", Kind.SNIPPET, index, start, start, end) for start, end in pairwise(bounds)]


def _entries(index: int, section: Section, table: Table, oddities: list[Oddity]) -> list[Entity]:
    bounds = _entry_bounds(section, table)
    if bounds is None:
        text = "its entries are laid out in a way that is not known"
        oddities.append(Oddity("unknown-section", section.name, text))
        return [Entity("", Kind.ANONYMOUS, index, 0, 0, section.size)]
    name, kind = section.name, Kind.ENTRY
    return [Entity(name, kind, index, start, start, end) for start, end in pairwise(bounds)]


def _entry_bounds(section: Section, table: Table) -> list[int] | None:
    """Where entries begin, and the section's end; None if relocations do not show it."""
    offsets = np.sort(section.relocations["offset"].astype("i8"))
    offsets = offsets[np.diff(offsets, prepend=-1) > 0]  # several relocations may be of one field
    count, rest = divmod(len(offsets), table.fields)
    if rest or (count == 0 and section.size):
        return None
    rows = offsets.reshape(count, table.fields) - table.at
    within = rows - rows[:, :1]
    starts = rows[:, 0]
    sizes = np.diff(np.append(starts, section.size))
    if count and (
        starts[0] != 0
        or (within != within[0]).any()
        or (sizes[:-1] != sizes[0]).any()  # the last one may lack padding
        or sizes[-1] > sizes[0]
        or sizes[-1] <= within[0, -1] + table.at
    ):
        return None
    return [*starts.tolist(), section.size]
