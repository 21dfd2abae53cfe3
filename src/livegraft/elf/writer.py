# SPDX-License-Identifier: GPL-2.0-or-later
"""Write an :class:`~livegraft.elf.object.ElfObject` as a file.

Layout: ELF header, contents of the sections, relocation sections, symbol table, string tables,
section headers. Section and symbol numbers are those of the object; the relocation sections, the
symbol table and the string tables come behind the object's own sections.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from livegraft.elf.header import (
    SHN_LORESERVE,
    SHN_XINDEX,
    ByteOrder,
    FileType,
    SectionFlag,
    SectionType,
)
from livegraft.elf.object import Binding, ElfObject, Relocations, Section, Symbol
from livegraft.errors import ElfError


class _Strings:
    """A string table; equal strings, and those that another one ends with, are stored once.

    Args:
        texts: all that it is to hold.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.data = bytearray(1)
        self._offsets = {"": 0}
        last, end = b"", 0
        # Behind the longest of those that end alike come the others.
        for text in sorted(set(texts), key=lambda each: each[::-1], reverse=True):
            encoded = text.encode("utf-8", "surrogateescape")
            if not last.endswith(encoded):
                last, end = encoded, len(self.data) + len(encoded)
                self.data += encoded + b"\0"
            self._offsets[text] = end - len(encoded) if encoded else 0

    def offset(self, text: str) -> int:
        """Where one of them begins."""
        return self._offsets[text]


def write(obj: ElfObject) -> bytes:
    """The object as the bytes of an ELF file.

    Raises:
        ElfError: a global symbol stands before a local one (see
            :func:`~livegraft.elf.object.sort_symbols`).
    """
    first_global = _first_global(obj)
    sections = list(obj.sections)
    symtab = len(sections) + sum(
        1 for s in sections if len(s.relocations) and s.type != SectionType.RELA
    )
    for number, section in enumerate(obj.sections):
        if section.type == SectionType.RELA:
            sections[number] = _own_rela(section, obj.byte_order, symtab)
        elif section.type == SectionType.GROUP:
            sections[number] = _linked(section, symtab)
        elif len(section.relocations):
            sections.append(_rela(section, number, obj.byte_order, symtab))
    names = _Strings(symbol.name for symbol in obj.symbols)
    table, wide = _symbol_table(obj.symbols, names, obj.byte_order)
    symbol_section = Section(
        ".symtab", SectionType.SYMTAB, 0, table, -1, 8, 24, symtab + 1, first_global
    )
    sections += [symbol_section, Section(".strtab", SectionType.STRTAB, data=bytes(names.data))]
    if wide is not None:
        sections.append(
            Section(".symtab_shndx", SectionType.SYMTAB_SHNDX, 0, wide, -1, 4, 4, symtab)
        )
    return _serialise(obj, sections)


def _first_global(obj: ElfObject) -> int:
    is_local = [symbol.binding == Binding.LOCAL for symbol in obj.symbols]
    first = is_local.index(False) if False in is_local else len(is_local)
    if any(is_local[first:]):
        raise ElfError("symbol table", "a local symbol stands behind a global one")
    return first


def _entries(relocations: Relocations, order: ByteOrder) -> bytes:
    layout = np.dtype([("offset", "u8"), ("info", "u8"), ("addend", "i8")]).newbyteorder(order)
    raw = np.empty(len(relocations), dtype=layout)
    raw["offset"] = relocations["offset"]
    raw["info"] = (relocations["symbol"].astype("u8") << np.uint64(32)) | relocations["type"]
    raw["addend"] = relocations["addend"]
    return raw.tobytes()


def _rela(section: Section, number: int, order: ByteOrder, symtab: int) -> Section:
    return Section(
        ".rela" + section.name,
        SectionType.RELA,
        SectionFlag.INFO_LINK,
        _entries(section.relocations, order),
        -1,
        8,
        24,
        symtab,
        number,
    )


def _own_rela(section: Section, order: ByteOrder, symtab: int) -> Section:
    data = _entries(section.relocations, order)
    return Section(
        section.name, SectionType.RELA, section.flags, data, -1, 8, 24, symtab, section.info
    )


def _linked(section: Section, symtab: int) -> Section:
    return Section(
        section.name,
        section.type,
        section.flags,
        section.data,
        -1,
        section.alignment,
        section.entry_size,
        symtab,
        section.info,
    )


def _symbol_table(
    symbols: list[Symbol], names: _Strings, order: ByteOrder
) -> tuple[bytes, bytes | None]:
    layout = struct.Struct(order + "IBBHQQ")
    table = bytearray()
    wide = np.zeros(len(symbols), dtype=order + "u4")
    for number, symbol in enumerate(symbols):
        index = symbol.section
        if symbol.in_section and index >= SHN_LORESERVE:
            wide[number], index = index, SHN_XINDEX
        info = symbol.binding << 4 | symbol.type
        name = names.offset(symbol.name)
        table += layout.pack(name, info, symbol.other, index, symbol.value, symbol.size)
    return bytes(table), wide.tobytes() if wide.any() else None


def _serialise(obj: ElfObject, sections: list[Section]) -> bytes:
    name_section = len(sections)
    names = _Strings([*(section.name for section in sections), ".shstrtab"])
    sections.append(Section(".shstrtab", SectionType.STRTAB, data=bytes(names.data)))
    out = bytearray(64)
    headers = []
    for section in sections:
        out += bytes(-len(out) % max(section.alignment, 1))
        offset = len(out) if section.type != SectionType.NULL else 0
        out += section.data
        headers.append(
            [
                names.offset(section.name),
                section.type,
                section.flags,
                0,
                offset,
                section.size,
                section.link,
                section.info,
                section.alignment,
                section.entry_size,
            ]
        )
    out += bytes(-len(out) % 8)
    table = len(out)
    count, names_index = len(sections), name_section
    if count >= SHN_LORESERVE:
        headers[0][5], headers[0][6] = count, name_section
        count, names_index = 0, SHN_XINDEX
    layout = struct.Struct(obj.byte_order + "IIQQQQIIQQ")
    for fields in headers:
        out += layout.pack(*fields)
    encoding = 1 if obj.byte_order == "<" else 2
    out[:64] = struct.pack(
        obj.byte_order + "4s12BHHIQQQIHHHHHH",
        b"\x7fELF",
        *(2, encoding, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        *(FileType.REL, obj.machine, 1, 0, 0, table, obj.flags, 64, 0, 0, 64, count, names_index),
    )
    return bytes(out)
