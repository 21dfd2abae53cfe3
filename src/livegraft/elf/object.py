# SPDX-License-Identifier: GPL-2.0-or-later
"""Relocatable objects, to be read, edited and written again.

:func:`read` turns a file into an :class:`ElfObject`: sections, symbols and relocations that refer
to one another by number, as in the file. :func:`write` makes a file of it again; section and
symbol numbers stay what they are, so an object can be read, edited and written without
renumbering. Source of the format: System V ABI (gABI), chapter 4; Elf64_Sym and Elf64_Rela of
<elf.h>.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from livegraft.elf import header
from livegraft.elf.header import (
    SHN_LORESERVE,
    SHN_XINDEX,
    ByteOrder,
    FileType,
    SectionFlag,
    SectionType,
)
from livegraft.elf.section_table import (
    GROUP,
    NOBITS,
    RELA,
    RESERVED,
    STRTAB,
    SYMTAB_SHNDX,
    SectionTable,
)
from livegraft.errors import ElfError


class Binding(IntEnum):
    """``ELF64_ST_BIND``."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2
    GNU_UNIQUE = 10


class SymbolType(IntEnum):
    """``ELF64_ST_TYPE``."""

    NOTYPE = 0
    OBJECT = 1
    FUNC = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6
    GNU_IFUNC = 10


@dataclass(slots=True)
class Symbol:
    """One ``Elf64_Sym``.

    Args:
        name: its name; empty for section symbols.
        section: ``st_shndx`` resolved (SHN_XINDEX followed): a section's number, or a reserved
            index such as SHN_ABS.
        value: offset in the section, in bytes.
        size: in bytes.
        binding: :class:`Binding`.
        type: :class:`SymbolType`.
        other: ``st_other`` (visibility; on ppc64le also the local entry point).
    """

    name: str
    section: int
    value: int = 0
    size: int = 0
    binding: int = Binding.LOCAL
    type: int = SymbolType.NOTYPE
    other: int = 0

    @property
    def is_undefined(self) -> bool:
        """Whether it is defined elsewhere."""
        return self.section == header.SHN_UNDEF

    @property
    def in_section(self) -> bool:
        """Whether it lies in a section of this object (not undefined, absolute, common...)."""
        return 0 < self.section < SHN_LORESERVE or self.section > SHN_XINDEX


RELOCATION = np.dtype([("offset", "u8"), ("type", "u4"), ("symbol", "u4"), ("addend", "i8")])
"""A relocation as an array's record: ``r_offset`` (bytes into the section), the two halves of
``r_info``, and ``r_addend``."""

Relocations = npt.NDArray[np.void]

_LINKS = int(SectionFlag.INFO_LINK | SectionFlag.LINK_ORDER)
_COMPRESSED = int(SectionFlag.COMPRESSED)
"""As plain numbers: operations on enums take ten times as long, and objects have many sections."""

_ANYWHERE = (1 << 64) - 1
"""A limit for the offsets of relocations of a section that stands for itself."""


_NONE = np.empty(0, dtype=RELOCATION)


def no_relocations() -> Relocations:
    """An empty array of relocations."""
    return _NONE


def relocations(entries: Iterable[tuple[int, int, int, int]]) -> Relocations:
    """An array of relocations from (offset, type, symbol, addend) tuples."""
    return np.array(list(entries), dtype=RELOCATION)


@dataclass(slots=True)
class Section:
    """One section with its relocations; ``.rela*`` sections of ALLOC kind are folded in here.

    Args:
        name: its name.
        type: ``sh_type``.
        flags: ``sh_flags``.
        data: its contents; empty for NOBITS.
        size: in bytes; equals ``len(data)`` but for NOBITS.
        alignment: ``sh_addralign``.
        entry_size: ``sh_entsize``.
        link: ``sh_link`` (a section's number).
        info: ``sh_info``.
        relocations: those that apply to this section, in the file's order.
    """

    name: str
    type: int = SectionType.PROGBITS
    flags: int = 0
    data: bytes = b""
    size: int = -1
    alignment: int = 1
    entry_size: int = 0
    link: int = 0
    info: int = 0
    relocations: Relocations = field(default_factory=no_relocations)

    def __post_init__(self) -> None:
        if self.size < 0:
            self.size = len(self.data)

    @property
    def is_alloc(self) -> bool:
        """Whether it is in memory at run time."""
        return bool(self.flags & SectionFlag.ALLOC)

    @property
    def is_code(self) -> bool:
        """Whether it holds instructions."""
        return bool(self.flags & SectionFlag.EXECINSTR)

    @property
    def is_strings(self) -> bool:
        """Whether the linker may merge its NUL-terminated strings."""
        both = SectionFlag.MERGE | SectionFlag.STRINGS
        return self.flags & both == both


@dataclass(slots=True)
class ElfObject:
    """A relocatable object.

    ``sections[0]`` and ``symbols[0]`` are the null entries. The symbol table, its string tables and
    the relocation sections are not among the sections: they are written anew. A relocation section
    that stands for itself (``.klp.rela.*``) is a section of type RELA whose ``relocations`` are its
    own entries and whose ``info`` is the number of the section that it applies to.
    """

    machine: int = header.Machine.X86_64
    byte_order: ByteOrder = "<"
    flags: int = 0
    sections: list[Section] = field(
        default_factory=lambda: [Section("", SectionType.NULL, alignment=0)]
    )
    symbols: list[Symbol] = field(default_factory=lambda: [Symbol("", 0)])

    def add_section(self, section: Section) -> int:
        """Append a section; returns its number."""
        self.sections.append(section)
        return len(self.sections) - 1

    def add_symbol(self, symbol: Symbol) -> int:
        """Append a symbol; returns its number. Locals first: see :func:`sort_symbols`."""
        self.symbols.append(symbol)
        return len(self.symbols) - 1

    @property
    def has_debug_information(self) -> bool:
        """Whether it was compiled with ``-g``."""
        return self.section_number(".debug_info") is not None

    def section_number(self, name: str) -> int | None:
        """The number of the first section of that name."""
        return next((n for n, section in enumerate(self.sections) if section.name == name), None)


def read(path: Path) -> ElfObject:
    """Read a relocatable object from a file."""
    return parse(path.read_bytes(), str(path))


def parse(data: bytes | memoryview, subject: str = "object") -> ElfObject:
    """Read a relocatable object.

    Raises:
        ElfError: malformed, not ET_REL, REL relocations, more than one symbol table, or none.
    """
    head = header.parse_head(data, subject)
    if head.type != FileType.REL:
        raise ElfError(subject, f"is not a relocatable object (e_type {head.type})")
    table = SectionTable(head, subject)
    result = ElfObject(head.machine, head.byte_order, head.flags)
    result.sections = _read_sections(data if isinstance(data, bytes) else bytes(data), table)
    result.symbols = _read_symbols(head.byte_order, table, subject)
    _read_relocations(head.byte_order, table, result, subject)
    for kept in result.sections:
        if kept.type == GROUP:
            if kept.info >= len(result.symbols):
                raise ElfError(subject, f"{kept.name}: its signature is a symbol that is none")
            kept.data = _renumber_group(head.byte_order, kept.data, table.numbers, subject)
    return result


def _read_sections(data: bytes, table: SectionTable) -> list[Section]:
    """The sections that an object keeps, without their relocations."""
    kept = np.flatnonzero(table.numbers)
    is_rela = table.type[kept] == RELA
    is_linked = table.flags[kept] & _LINKS != 0
    link = np.where(is_linked & ~is_rela, table.renumbered(table.link[kept]), 0)
    info = np.where(is_linked | is_rela, table.renumbered(table.info[kept]), table.info[kept])
    size = np.where(is_rela, 0, table.size[kept])
    is_empty = is_rela | (table.type[kept] == NOBITS)
    start = table.offset[kept]
    ends = np.where(is_empty, start, start + size)
    contents = map(data.__getitem__, map(slice, start.tolist(), ends.tolist()))
    columns = (table.type[kept], table.flags[kept], size, table.alignment[kept])
    kind, flags, sizes, alignment = (column.tolist() for column in columns)
    rest = (column.tolist() for column in (table.entry_size[kept], link, info))
    read = list(map(Section, table.names_of(kept), kind, flags, contents, sizes, alignment, *rest))
    null = Section("", SectionType.NULL, alignment=0)
    first = SHN_LORESERVE - 1
    if len(read) <= first:
        return [null, *read]
    return [null, *read[:first], *([null] * RESERVED), *read[first:]]


def _read_relocations(
    order: ByteOrder, table: SectionTable, result: ElfObject, subject: str
) -> None:
    """All relocations at once, then each section's share of them."""
    tables = np.flatnonzero(table.type == RELA)
    size = table.size[tables]
    for section in tables[(table.entry_size[tables] != 24) | (size % 24 != 0)].tolist():
        raise table.error(section, "entries are not Elf64_Rela")
    raw = np.frombuffer(
        b"".join(table.contents_of(tables)),
        dtype=np.dtype([("offset", "u8"), ("info", "u8"), ("addend", "i8")]).newbyteorder(order),
    )
    entries = np.empty(len(raw), dtype=RELOCATION)
    entries["offset"] = raw["offset"]
    entries["type"] = raw["info"] & 0xFFFFFFFF
    entries["symbol"] = raw["info"] >> 32
    entries["addend"] = raw["addend"]
    ends = np.cumsum(size // 24)
    for unknown in np.flatnonzero(entries["symbol"] >= len(result.symbols)).tolist():
        section = int(tables[np.searchsorted(ends, unknown, side="right")])
        raise table.error(section, "refers to a symbol that does not exist")
    own = table.numbers[tables]
    numbers = np.where(own > 0, own, table.renumbered(table.info[tables]))
    for position in np.flatnonzero(numbers == 0).tolist():
        section = int(table.info[tables[position]])
        raise table.error(int(tables[position]), f"applies to section {section}, which is none")
    limits = []
    first = 0
    columns = (tables, numbers, own, ends)
    for position, number, is_own, end in zip(*(each.tolist() for each in columns), strict=True):
        target = result.sections[number]
        if target.type == NOBITS and end > first:
            raise table.error(position, f"relocations of {target.name}, which is empty")
        limits.append(_take(target, entries[first:end], bool(is_own)))
        first = end
    limit = np.repeat(np.array(limits, dtype="u8"), size // 24)
    for outside in np.flatnonzero(entries["offset"] >= limit).tolist():
        section = int(tables[np.searchsorted(ends, outside, side="right")])
        raise table.error(section, "relocation outside of its section")


def _take(target: Section, entries: Relocations, is_own: bool) -> int:
    """Give a section its relocations; returns what their offsets have to stay below."""
    if len(target.relocations) and not is_own:
        entries = np.concatenate([target.relocations, entries])
    target.relocations = entries
    # The offsets of a compressed section are those of what is in it.
    return _ANYWHERE if is_own or target.flags & _COMPRESSED else target.size


def _symbol_layout(order: ByteOrder) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("name", "u4"),
            ("info", "u1"),
            ("other", "u1"),
            ("section", "u2"),
            ("value", "u8"),
            ("size", "u8"),
        ]
    ).newbyteorder(order)


def _read_symbols(order: ByteOrder, table: SectionTable, subject: str) -> list[Symbol]:
    symtab, strtab = table.symtab, int(table.link[table.symtab])
    size = int(table.size[symtab])
    if size % 24 or table.entry_size[symtab] != 24 or size == 0:
        raise ElfError(subject, "its symbol table's entries are not Elf64_Sym")
    if strtab >= len(table.type) or table.type[strtab] != STRTAB:
        raise ElfError(subject, "its symbol table has no string table")
    raw = np.frombuffer(table.contents(symtab), dtype=_symbol_layout(order))
    names = header.strings_at(bytes(table.contents(strtab)), raw["name"].tolist(), subject)
    sections = _sections_of_symbols(order, raw, names, table, subject)
    info = raw["info"]
    columns = (sections, raw["value"], raw["size"], info >> 4, info & 0xF, raw["other"])
    return list(map(Symbol, names, *(column.tolist() for column in columns)))


def _sections_of_symbols(
    order: ByteOrder,
    raw: npt.NDArray[np.void],
    names: Sequence[str],
    table: SectionTable,
    subject: str,
) -> npt.NDArray[np.int64]:
    """The symbols' sections by the numbers that the object has; reserved indices stay."""
    sections = raw["section"].astype("i8")
    is_wide = sections == SHN_XINDEX
    is_inside = (sections > 0) & ((sections < SHN_LORESERVE) | is_wide)
    if is_wide.any():
        sections = np.where(is_wide, _extended(order, len(sections), table, subject), sections)
    inside = np.flatnonzero(is_inside)
    found = sections[inside]
    for number in inside[found >= len(table.numbers)].tolist():
        raise ElfError(subject, f"symbol {names[number]!r} lies in a section that does not exist")
    sections[inside] = table.numbers[found]
    for number in inside[sections[inside] == 0].tolist():
        raise ElfError(subject, f"symbol {names[number]!r} lies in no section of its own")
    size = np.where(table.type[found] == RELA, 0, table.size[found]).astype("u8")
    for number in inside[raw["value"][inside] > size].tolist():
        raise ElfError(subject, f"symbol {names[number]!r} lies beyond its section")
    return sections


def _extended(
    order: ByteOrder, count: int, table: SectionTable, subject: str
) -> npt.NDArray[np.int64]:
    """The sections' numbers of symbols that have SHN_XINDEX instead."""
    found = np.flatnonzero(table.type == SYMTAB_SHNDX)
    if not len(found) or table.size[found[0]] != 4 * count:
        raise ElfError(subject, "has no table of extended section indices of its symbols' number")
    return np.frombuffer(table.contents(int(found[0])), dtype=order + "u4").astype("i8")


def _renumber_group(
    order: ByteOrder, data: bytes, numbers: npt.NDArray[np.int64], subject: str
) -> bytes:
    """A section group's members by their new numbers; relocation sections follow their targets."""
    if len(data) % 4:
        raise ElfError(subject, "a section group's members are no words")
    words = np.frombuffer(data, dtype=order + "u4").copy()
    for position, member in enumerate(words[1:].tolist(), 1):
        if member >= len(numbers):
            raise ElfError(subject, f"a section group names section {member}, which is none")
        words[position] = numbers[member]
    return words[np.r_[True, words[1:] != 0]].tobytes() if len(words) else data


def sort_symbols(obj: ElfObject) -> None:
    """Put local symbols before the others, as ELF asks, and follow in all relocations."""
    order = sorted(range(len(obj.symbols)), key=lambda n: obj.symbols[n].binding != Binding.LOCAL)
    numbers = np.empty(len(order), dtype="u4")
    numbers[order] = np.arange(len(order), dtype="u4")
    obj.symbols = [obj.symbols[n] for n in order]
    for section in obj.sections:
        if len(section.relocations):
            section.relocations = section.relocations.copy()
            section.relocations["symbol"] = numbers[section.relocations["symbol"]]
        if section.type == SectionType.GROUP:
            section.info = int(numbers[section.info])
