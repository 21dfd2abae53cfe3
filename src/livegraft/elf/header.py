# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF header and section headers, read with the standard library only.

Production machines run this part (:mod:`livegraft.runtime`), so it imports nothing else of the
package but the errors. Source of the format: System V ABI, chapters 4 and 5 (gABI draft of 2013),
and <elf.h> for the names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum, IntFlag
from itertools import count, repeat
from typing import Literal, NamedTuple

from livegraft.errors import ElfError

ByteOrder = Literal["<", ">"]
"""Little or big endian, as :mod:`struct` and numpy write it."""


class Machine(IntEnum):
    """``e_machine`` of the architectures that the kernel's livepatch knows."""

    PPC64 = 21
    S390 = 22
    X86_64 = 62
    AARCH64 = 183
    LOONGARCH = 258


class FileType(IntEnum):
    """``e_type``."""

    REL = 1
    EXEC = 2
    DYN = 3


class SectionType(IntEnum):
    """``sh_type``, as far as kernel objects have them."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    REL = 9
    INIT_ARRAY = 14
    FINI_ARRAY = 15
    GROUP = 17
    SYMTAB_SHNDX = 18
    LLVM_ADDRSIG = 0x6FFF4C03
    X86_64_UNWIND = 0x70000001


_TABLE_AT = 40
"""Offset of ``e_shoff`` in ``Elf64_Ehdr``."""

_WITHOUT_CONTENTS = (SectionType.NOBITS, SectionType.NULL)


class SectionFlag(IntFlag):
    """``sh_flags``."""

    WRITE = 0x1
    ALLOC = 0x2
    EXECINSTR = 0x4
    MERGE = 0x10
    STRINGS = 0x20
    INFO_LINK = 0x40
    LINK_ORDER = 0x80
    GROUP = 0x200
    COMPRESSED = 0x800
    RELA_LIVEPATCH = 0x00100000
    """SHF_RELA_LIVEPATCH of include/uapi/linux/elf.h."""


SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_LIVEPATCH = 0xFF20
"""include/uapi/linux/elf.h: the symbol is resolved by the livepatch core."""
SHN_ABS = 0xFFF1
SHN_XINDEX = 0xFFFF


class SectionHeader(NamedTuple):
    """One ``Elf64_Shdr`` with its name; offsets and sizes in bytes."""

    number: int
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class File(NamedTuple):
    """A 64-bit ELF file's headers.

    Args:
        data: the whole file.
        byte_order: ``<`` or ``>``, as :mod:`struct` writes it.
        machine: ``e_machine``.
        type: ``e_type``.
        flags: ``e_flags``.
        sections: all section headers, the null section included.
    """

    data: memoryview
    byte_order: ByteOrder
    machine: int
    type: int
    flags: int
    sections: tuple[SectionHeader, ...]

    @property
    def end(self) -> int:
        """Where the file ends by what its headers say, in bytes; a signature may follow."""
        kept = [each for each in self.sections if each.type not in _WITHOUT_CONTENTS]
        table: int = struct.unpack_from(self.byte_order + "Q", self.data, _TABLE_AT)[0]
        size = _layout(self.byte_order).size * len(self.sections)
        return max([64, table + size, *(each.offset + each.size for each in kept)])

    def section(self, name: str) -> SectionHeader | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def bytes_of(self, section: SectionHeader) -> memoryview:
        """A section's contents; empty for NOBITS."""
        if section.type in _WITHOUT_CONTENTS:
            return self.data[:0]
        return self.data[section.offset : section.offset + section.size]

    def section_data(self, name: str) -> memoryview | None:
        """The contents of the first section of that name, or None."""
        section = self.section(name)
        return None if section is None else self.bytes_of(section)


NAMES_MISSING = "its section name table does not exist"
_TABLE_OUTSIDE = "its section header table lies outside the file (truncated?)"

_HEADER_OF: Callable[[type[SectionHeader], tuple[object, ...]], SectionHeader] = tuple.__new__

_MOST_CHARACTERS = 1 << 28
"""Of all names of a table together."""


class Head(NamedTuple):
    """What a 64-bit ELF file says of itself, its section headers as they lie there.

    Args:
        data: the whole file.
        byte_order: ``<`` or ``>``, as :mod:`struct` writes it.
        machine: ``e_machine``.
        type: ``e_type``.
        flags: ``e_flags``.
        table: the section headers, 64 bytes each.
        names: the number of the section with their names.
    """

    data: memoryview
    byte_order: ByteOrder
    machine: int
    type: int
    flags: int
    table: memoryview
    names: int


def parse(data: bytes | memoryview, subject: str = "object") -> File:
    """Read the headers of a 64-bit ELF file.

    Args:
        data: the whole file.
        subject: what to call it in an error.

    Raises:
        ElfError: not ELF, not 64 bit, truncated, or with headers that point outside the file.
    """
    head = parse_head(data, subject)
    raw = list(_layout(head.byte_order).iter_unpack(head.table))
    sections = _with_names(head.data, raw, head.names, subject)
    return File(head.data, head.byte_order, head.machine, head.type, head.flags, sections)


def parse_head(data: bytes | memoryview, subject: str = "object") -> Head:
    """Find the section headers of a 64-bit ELF file.

    Raises:
        ElfError: not ELF, not 64 bit, or truncated.
    """
    view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
    if len(view) < 64 or bytes(view[:4]) != b"\x7fELF":
        raise ElfError(subject, "is not an ELF file" if len(view) >= 4 else "is too short for ELF")
    if view[4] != 2 or view[5] not in (1, 2) or view[6] != 1:
        raise ElfError(subject, "is not a 64-bit ELF file of version 1")
    order: ByteOrder = "<" if view[5] == 1 else ">"
    fields = struct.unpack_from(order + "HHIQQQIHHHHHH", view, 16)
    kind, machine, _, _, _, table, flags, header_size, _, _, entry, count, names = fields
    if header_size != 64:
        raise ElfError(subject, f"has an ELF header of {header_size} bytes")
    if table == 0:
        return Head(view, order, machine, kind, flags, view[:0], 0)
    layout = _layout(order)
    if entry != layout.size or table + layout.size > len(view):
        raise ElfError(subject, _TABLE_OUTSIDE)
    first = layout.unpack_from(view, table)
    if count == 0:  # 65,280 sections and more: the number is in the null section's sh_size
        count = first[5]
    end = table + layout.size * count
    if end > len(view):
        raise ElfError(subject, _TABLE_OUTSIDE)
    if names == SHN_XINDEX:
        names = first[6] if count else 0
    return Head(view, order, machine, kind, flags, view[table:end], names)


def _layout(order: ByteOrder) -> struct.Struct:
    return struct.Struct(order + "IIQQQQIIQQ")


def _with_names(
    view: memoryview, raw: list[tuple[int, ...]], names: int, subject: str
) -> tuple[SectionHeader, ...]:
    if not raw:
        return ()
    if not 0 < names < len(raw):
        raise ElfError(subject, NAMES_MISSING)
    length = len(view)
    for index, fields in enumerate(raw):
        if fields[4] + fields[5] > length and fields[1] not in _WITHOUT_CONTENTS:
            raise outside_file(subject, index)
    strings = bytes(view[raw[names][4] : raw[names][4] + raw[names][5]])
    offsets, *columns = zip(*raw, strict=True)
    found = strings_at(strings, offsets, subject)
    # Without a call of Python's for each: objects have many sections.
    return tuple(map(_HEADER_OF, repeat(SectionHeader), zip(count(), found, *columns)))


def outside_file(subject: str, section: int) -> ElfError:
    """What is wrong with a section that is not in the file."""
    return ElfError(subject, f"section {section} lies outside the file (truncated?)")


def strings_at(table: bytes, offsets: Sequence[int], subject: str = "object") -> list[str]:
    """The NUL-terminated strings at many offsets of a string table.

    Raises:
        ElfError: an offset is outside or a string does not end.
    """
    _check_length(table, len(offsets), subject)
    if table.isascii():  # then an offset in bytes is one in characters
        text = table.decode("ascii")
        with suppress(ValueError):
            return [text[offset : text.index("\0", offset)] for offset in offsets]
    return [string_at(table, offset, subject) for offset in offsets]


def _check_length(table: bytes, count: int, subject: str) -> None:
    """Names may share their ends, but not so that a small file becomes gigabytes of names."""
    if count * len(table) > _MOST_CHARACTERS:
        longest = max(map(len, table.split(b"\0")))
        if count * longest > max(_MOST_CHARACTERS, 64 * len(table)):
            raise ElfError(subject, f"has a name of {longest} bytes and {count} names")


def string_at(table: bytes, offset: int, subject: str = "object") -> str:
    """The NUL-terminated string at `offset` of a string table.

    Raises:
        ElfError: the offset is outside or the string does not end.
    """
    end = table.find(b"\0", offset)
    if offset >= len(table) or end < 0:
        raise ElfError(subject, f"string table has no string at offset {offset}")
    return table[offset:end].decode("utf-8", "surrogateescape")
