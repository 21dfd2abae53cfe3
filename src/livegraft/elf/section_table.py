# SPDX-License-Identifier: GPL-2.0-or-later
"""The section headers of a relocatable object as columns: objects have many sections.

What every object has to keep is checked for all at once; only the one at fault is looked at by
itself. Source of the format: System V ABI (gABI), chapter 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from livegraft.elf import header
from livegraft.elf.header import NAMES_MISSING, SHN_LORESERVE, SHN_XINDEX, SectionFlag, SectionType
from livegraft.errors import ElfError

Numbers = npt.NDArray[np.int64]

NULL, NOBITS, REL, RELA, STRTAB, SYMTAB, SYMTAB_SHNDX, GROUP = (
    int(each)
    for each in (
        *(SectionType.NULL, SectionType.NOBITS, SectionType.REL, SectionType.RELA),
        *(SectionType.STRTAB, SectionType.SYMTAB, SectionType.SYMTAB_SHNDX, SectionType.GROUP),
    )
)
"""As plain numbers: operations on enums take ten times as long."""

_LIVEPATCH = int(SectionFlag.RELA_LIVEPATCH)

LARGEST_SECTION = 1 << 28
"""Bytes; the whole kernel has less."""

RESERVED = SHN_XINDEX + 1 - SHN_LORESERVE
"""Numbers that no section of an object has, so that one number says what a symbol's section is: an
object of 65,280 sections and more has empty ones there."""

_LAYOUT = np.dtype(
    [
        *(("name", "u4"), ("type", "u4"), ("flags", "u8"), ("address", "u8"), ("offset", "u8")),
        *(("size", "u8"), ("link", "u4"), ("info", "u4"), ("alignment", "u8"), ("entry", "u8")),
    ]
)
"""``Elf64_Shdr``."""


class SectionTable:
    """The section headers of an object.

    Args:
        head: what the file says of itself.
        subject: what to call it in an error.

    Raises:
        ElfError: a section lies outside the file or overlaps another one, or has a size or an
            alignment that cannot be; there is not one symbol table; relocations without addends.

    Attributes:
        type, flags, offset, size, link, info, alignment, entry_size: the columns.
        symtab: the number of the symbol table.
        numbers: a section's number in the file -> its number in the object; 0 for those that are
            written anew.
    """

    def __init__(self, head: header.Head, subject: str) -> None:
        self._head = head
        self._subject = subject
        raw = np.frombuffer(head.table, dtype=_LAYOUT.newbyteorder(head.byte_order))
        self._name = raw["name"].astype("i8")
        self.type = raw["type"].astype("i8")
        self.flags = raw["flags"].astype("u8")
        self.link, self.info = raw["link"].astype("i8"), raw["info"].astype("i8")
        if len(raw) and not 0 < head.names < len(raw):
            raise ElfError(subject, NAMES_MISSING)
        self._check_places(raw)
        self.offset, self.size = raw["offset"].astype("i8"), raw["size"].astype("i8")
        self._strings = self._contents(head.names) if len(raw) else b""
        for section in np.flatnonzero(self._name > self._strings.rfind(b"\0")).tolist():
            header.string_at(self._strings, int(self._name[section]), subject)  # raises
        self._check_numbers(raw)
        self.alignment = raw["alignment"].astype("i8")
        self.entry_size = raw["entry"].astype("u8")
        tables = np.flatnonzero(self.type == SYMTAB)
        if len(tables) != 1:
            raise ElfError(subject, f"has {len(tables)} symbol tables, one is expected")
        self.symtab = int(tables[0])
        self._check_links()
        self.numbers = self._numbered()

    def names_of(self, sections: Numbers) -> list[str]:
        """The names of some sections."""
        return header.strings_at(self._strings, self._name[sections].tolist(), self._subject)

    def error(self, section: int, problem: str) -> ElfError:
        """What is wrong with a section."""
        (name,) = self.names_of(np.array([section]))
        return ElfError(self._subject, f"{name}: {problem}")

    def renumbered(self, sections: Numbers) -> Numbers:
        """Numbers in the file as numbers in the object; 0 for what is none there."""
        inside = sections < len(self.numbers)
        return np.where(inside, self.numbers[np.where(inside, sections, 0)], 0)

    def contents(self, section: int) -> memoryview:
        """A section's bytes; empty for NOBITS."""
        if self.type[section] in (NULL, NOBITS):
            return self._head.data[:0]
        first = int(self.offset[section])
        return self._head.data[first : first + int(self.size[section])]

    def contents_of(self, sections: Numbers) -> Iterator[memoryview]:
        """The bytes of many sections that have some."""
        first = self.offset[sections]
        ends = first + self.size[sections]
        return map(self._head.data.__getitem__, map(slice, first.tolist(), ends.tolist()))

    def _contents(self, section: int) -> bytes:
        return bytes(self.contents(section))

    def _check_places(self, raw: npt.NDArray[np.void]) -> None:
        length = len(self._head.data)
        is_empty = np.isin(self.type, (NULL, NOBITS))
        beyond = (raw["offset"] > length) | (
            raw["size"] > length - np.minimum(raw["offset"], length)
        )
        for section in np.flatnonzero(beyond & ~is_empty).tolist():
            raise header.outside_file(self._subject, section)

    def _check_numbers(self, raw: npt.NDArray[np.void]) -> None:
        size, alignment = raw["size"], raw["alignment"]
        for section in np.flatnonzero(size > LARGEST_SECTION).tolist():
            raise self.error(section, f"claims to have {int(size[section])} bytes")
        below = np.maximum(alignment, 1) - np.uint64(1)
        odd = (alignment & below != 0) | (alignment > LARGEST_SECTION)
        for section in np.flatnonzero(odd).tolist():
            raise self.error(section, f"has an alignment of {int(alignment[section])}")
        filled = np.flatnonzero((size > 0) & ~np.isin(self.type, (NULL, NOBITS)))
        order = filled[np.argsort(self.offset[filled], kind="stable")]
        ends = (self.offset + self.size)[order]
        for section in order[1:][self.offset[order[1:]] < ends[:-1]].tolist():
            raise self.error(section, "overlaps another section in the file")

    def _check_links(self) -> None:
        linked = np.isin(self.type, (RELA, SYMTAB_SHNDX)) & (self.link != self.symtab)
        for section in np.flatnonzero(linked).tolist():
            raise self.error(section, f"is linked to section {int(self.link[section])}")
        for section in np.flatnonzero(self.type == REL).tolist():
            raise self.error(section, "REL relocations are not supported")

    def _numbered(self) -> Numbers:
        is_rela = (self.type == RELA) & (self.flags & _LIVEPATCH == 0)
        is_anew = is_rela | np.isin(self.type, (SYMTAB_SHNDX, NULL))
        own = (0, self.symtab, int(self.link[self.symtab]))
        is_anew[[each for each in own if each < len(is_anew)]] = True
        strings = np.flatnonzero(self.type == STRTAB)
        for section, name in zip(strings.tolist(), self.names_of(strings), strict=True):
            is_anew[section] |= name == ".shstrtab"
        numbers = np.cumsum(~is_anew)
        numbers += np.where(numbers >= SHN_LORESERVE, RESERVED, 0)
        numbers[is_anew] = 0
        return numbers
