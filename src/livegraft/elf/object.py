# SPDX-License-Identifier: GPL-2.0-or-later
"""Relocatable objects, to be read, edited and written again.

:func:`read` turns a file into an :class:`ElfObject`: sections, symbols and relocations that refer
to one another by number, as in the file. :func:`write` makes a file of it again; section and
symbol numbers stay what they are, so an object can be read, edited and written without
renumbering. Source of the format: System V ABI (gABI), chapter 4; Elf64_Sym and Elf64_Rela of
<elf.h>.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
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

_NULL, _NOBITS, _REL, _RELA, _STRTAB, _SYMTAB_SHNDX = (
    int(each)
    for each in (
        *(SectionType.NULL, SectionType.NOBITS, SectionType.REL, SectionType.RELA),
        *(SectionType.STRTAB, SectionType.SYMTAB_SHNDX),
    )
)
_LIVEPATCH = int(SectionFlag.RELA_LIVEPATCH)
_LINKS = int(SectionFlag.INFO_LINK | SectionFlag.LINK_ORDER)
"""As plain numbers: operations on enums take ten times as long, and objects have many sections."""

LARGEST_SECTION = 1 << 28
"""Bytes; the whole kernel has less."""

_RESERVED = SHN_XINDEX + 1 - SHN_LORESERVE
"""Numbers that no section of an object has, so that one number says what a symbol's section is: an
object of 65,280 sections and more has empty ones there."""

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
    file = header.parse(data, subject)
    if file.type != FileType.REL:
        raise ElfError(subject, f"is not a relocatable object (e_type {file.type})")
    tables = [section for section in file.sections if section.type == SectionType.SYMTAB]
    if len(tables) != 1:
        raise ElfError(subject, f"has {len(tables)} symbol tables, one is expected")
    table = tables[0]
    _check_sections(file, table, subject)
    numbers = _kept_sections(file, table)
    result = ElfObject(file.machine, file.byte_order, file.flags)
    result.symbols = _read_symbols(file, table, numbers, subject)
    for section in file.sections[1:]:
        if numbers[section.number]:
            if len(result.sections) == SHN_LORESERVE:
                result.sections += [Section("", SectionType.NULL, alignment=0)] * _RESERVED
            result.sections.append(_read_section(file, section, numbers))
        if section.type == _REL:
            raise ElfError(subject, f"{section.name}: REL relocations are not supported")
    _check_values(result, subject)
    _read_relocations(file, numbers, result, subject)
    for kept in result.sections:
        if kept.type == SectionType.GROUP:
            if kept.info >= len(result.symbols):
                raise ElfError(subject, f"{kept.name}: its signature is a symbol that is none")
            kept.data = _renumber_group(file, kept.data, numbers, subject)
    return result


def _check_sections(file: header.File, table: header.SectionHeader, subject: str) -> None:
    """What holds for the sections of any object, whatever they are for."""
    end = 0
    for section in sorted(file.sections, key=lambda each: each.offset):
        kind, alignment = section.type, section.alignment
        if section.size > LARGEST_SECTION:
            raise ElfError(subject, f"{section.name}: claims to have {section.size} bytes")
        if alignment & (alignment - 1) or alignment > LARGEST_SECTION:
            raise ElfError(subject, f"{section.name}: has an alignment of {alignment}")
        if section.size and kind not in (_NULL, _NOBITS):
            if section.offset < end:
                raise ElfError(subject, f"{section.name}: overlaps another section in the file")
            end = section.offset + section.size
        if kind in (_RELA, _SYMTAB_SHNDX) and section.link != table.number:
            raise ElfError(subject, f"{section.name}: is linked to section {section.link}")


def _kept_sections(file: header.File, table: header.SectionHeader) -> list[int]:
    """File's section number -> number in the object; 0 for those that are written anew."""
    numbers = [0] * len(file.sections)
    count = 0
    for section in file.sections[1:]:
        kind = section.type
        own = section.flags & _LIVEPATCH
        is_anew = (
            (kind == _RELA and not own)
            or (kind == _STRTAB and section.name == ".shstrtab")
            or kind in (_SYMTAB_SHNDX, _NULL)
            or section.number in (table.number, table.link)
        )
        if not is_anew:
            count += 1 if count + 1 != SHN_LORESERVE else 1 + _RESERVED
            numbers[section.number] = count
    return numbers


def _read_section(
    file: header.File, section: header.SectionHeader, numbers: Sequence[int]
) -> Section:
    links = section.flags & _LINKS
    is_rela = section.type == _RELA
    return Section(
        section.name,
        section.type,
        section.flags,
        b"" if is_rela else bytes(file.bytes_of(section)),
        0 if is_rela else section.size,
        section.alignment,
        section.entry_size,
        _renumbered(section.link, numbers) if links and not is_rela else 0,
        _renumbered(section.info, numbers) if links or is_rela else section.info,
    )


def _renumbered(section: int, numbers: Sequence[int]) -> int:
    return numbers[section] if section < len(numbers) else 0


def _read_relocations(
    file: header.File, numbers: Sequence[int], result: ElfObject, subject: str
) -> None:
    """All relocations at once, then each section's share of them."""
    tables = [section for section in file.sections if section.type == _RELA]
    for section in tables:
        if section.entry_size != 24 or section.size % 24:
            raise ElfError(subject, f"{section.name}: entries are not Elf64_Rela")
    raw = np.frombuffer(
        b"".join(file.bytes_of(section) for section in tables),
        dtype=np.dtype([("offset", "u8"), ("info", "u8"), ("addend", "i8")]).newbyteorder(
            file.byte_order
        ),
    )
    entries = np.empty(len(raw), dtype=RELOCATION)
    entries["offset"] = raw["offset"]
    entries["type"] = raw["info"] & 0xFFFFFFFF
    entries["symbol"] = raw["info"] >> 32
    entries["addend"] = raw["addend"]
    ends = list(accumulate(section.size // 24 for section in tables))
    unknown = np.flatnonzero(entries["symbol"] >= len(result.symbols))
    if len(unknown):
        section = tables[bisect_right(ends, int(unknown[0]))]
        raise ElfError(subject, f"{section.name}: refers to a symbol that does not exist")
    limits = []
    first = 0
    for section, end in zip(tables, ends, strict=True):
        limits.append(_apply(section, entries[first:end], numbers, result, subject))
        first = end
    outside = np.flatnonzero(
        entries["offset"] >= np.repeat(np.array(limits, dtype="u8"), np.diff([0, *ends]))
    )
    if len(outside):
        section = tables[bisect_right(ends, int(outside[0]))]
        raise ElfError(subject, f"{section.name}: relocation outside of its section")


def _apply(
    section: header.SectionHeader,
    entries: Relocations,
    numbers: Sequence[int],
    result: ElfObject,
    subject: str,
) -> int:
    """Give a section its relocations; returns what their offsets have to stay below."""
    if numbers[section.number]:
        result.sections[numbers[section.number]].relocations = entries
        return _ANYWHERE
    number = _renumbered(section.info, numbers)
    if not number:
        raise ElfError(subject, f"{section.name}: applies to section {section.info}, which is none")
    target = result.sections[number]
    if target.type == _NOBITS and len(entries):
        raise ElfError(subject, f"{section.name}: relocations of {target.name}, which is empty")
    if len(target.relocations):
        entries = np.concatenate([target.relocations, entries])
    target.relocations = entries
    # The offsets of a compressed section are those of what is in it.
    return _ANYWHERE if target.flags & SectionFlag.COMPRESSED else target.size


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


def _read_symbols(
    file: header.File, table: header.SectionHeader, numbers: Sequence[int], subject: str
) -> list[Symbol]:
    if table.size % 24 or table.entry_size != 24 or table.size == 0:
        raise ElfError(subject, "its symbol table's entries are not Elf64_Sym")
    if table.link >= len(file.sections) or file.sections[table.link].type != _STRTAB:
        raise ElfError(subject, "its symbol table has no string table")
    raw = np.frombuffer(file.bytes_of(table), dtype=_symbol_layout(file.byte_order))
    strings = bytes(file.bytes_of(file.sections[table.link]))
    names = header.strings_at(strings, raw["name"].tolist(), subject)
    sections = _sections_of_symbols(file, raw["section"].astype("u4"), names, numbers, subject)
    info = raw["info"]
    columns = (sections, raw["value"], raw["size"], info >> 4, info & 0xF, raw["other"])
    return list(map(Symbol, names, *(column.tolist() for column in columns)))


def _sections_of_symbols(
    file: header.File,
    sections: npt.NDArray[np.uint32],
    names: Sequence[str],
    numbers: Sequence[int],
    subject: str,
) -> npt.NDArray[np.uint32]:
    """The symbols' sections by the numbers that the object has; reserved indices stay."""
    is_wide = sections == SHN_XINDEX
    is_inside = (sections > 0) & ((sections < SHN_LORESERVE) | is_wide)
    if is_wide.any():
        sections = np.where(is_wide, _extended(file, len(sections), subject), sections)
    inside = np.flatnonzero(is_inside)
    for number in inside[sections[inside] >= len(numbers)].tolist():
        raise ElfError(subject, f"symbol {names[number]!r} lies in a section that does not exist")
    renumbered = np.array(numbers, dtype="u4")[sections[inside]]
    for number in inside[renumbered == 0].tolist():
        raise ElfError(subject, f"symbol {names[number]!r} lies in no section of its own")
    result = sections.copy()
    result[inside] = renumbered
    return result


def _extended(file: header.File, count: int, subject: str) -> npt.NDArray[np.uint32]:
    """The sections' numbers of symbols that have SHN_XINDEX instead."""
    table = next((each for each in file.sections if each.type == _SYMTAB_SHNDX), None)
    if table is None or table.size != 4 * count:
        raise ElfError(subject, "has no table of extended section indices of its symbols' number")
    return np.frombuffer(file.bytes_of(table), dtype=file.byte_order + "u4").astype("u4")


def _check_values(result: ElfObject, subject: str) -> None:
    sizes = np.array([section.size for section in result.sections], dtype="u8")
    sections = np.array([symbol.section for symbol in result.symbols], dtype="i8")
    values = np.array([symbol.value for symbol in result.symbols], dtype="u8")
    is_inside = (sections > 0) & ((sections < SHN_LORESERVE) | (sections > SHN_XINDEX))
    inside = np.flatnonzero(is_inside)
    for number in inside[values[inside] > sizes[sections[inside]]].tolist():
        raise ElfError(subject, f"symbol {result.symbols[number].name!r} lies beyond its section")


def _renumber_group(file: header.File, data: bytes, numbers: Sequence[int], subject: str) -> bytes:
    """A section group's members by their new numbers; relocation sections follow their targets."""
    if len(data) % 4:
        raise ElfError(subject, "a section group's members are no words")
    words = np.frombuffer(data, dtype=file.byte_order + "u4").copy()
    for position, member in enumerate(words[1:].tolist(), 1):
        if member >= len(file.sections):
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
