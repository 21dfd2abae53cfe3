# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions a live patch redirects, by the tables that the kernel itself will read.

The module's ``struct klp_object`` and ``struct klp_func`` (include/linux/livepatch.h) are found by
the symbols that the builder gives them. The file holds no pointers but their relocations: a row of
functions begins with those of its name and of its new code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from livegraft.elf import header
from livegraft.elf.header import SectionType
from livegraft.errors import ElfError

OBJECTS = "lg_objects"
FUNCTIONS = "lg_funcs_"
"""The arrays' symbols; the second is followed by a number."""

ABSOLUTE = {header.Machine.X86_64: 1, header.Machine.AARCH64: 257}
"""Relocations of 64-bit pointers: R_X86_64_64, R_AARCH64_ABS64."""

VMLINUX = "vmlinux"

_FUNCTIONS_AT = 8
"""Offset of ``funcs`` in ``struct klp_object``; ``name`` comes first."""
_CODE_AT, _POSITION_AT = 8, 16
"""Offsets of ``new_func`` and ``old_sympos`` in ``struct klp_func``; ``old_name`` comes first."""

Place = tuple[int, int]
"""A section's number and an offset in it."""

Redirected = tuple[str, str, int]
"""Object, function and its position among those of that name (``old_sympos``)."""


class _Array(NamedTuple):
    section: int
    start: int
    size: int


def redirected(file: header.File, subject: str) -> frozenset[Redirected]:
    """The functions that a module's tables redirect.

    Args:
        file: the module.
        subject: what to call it in an error.

    Raises:
        ElfError: it has no such tables, or they are damaged.
    """
    try:
        return frozenset(_Tables(file, subject).rows())
    except (struct.error, IndexError, KeyError) as error:
        raise ElfError(subject, f"its tables of functions are damaged ({error!r})") from error


class _Tables:
    def __init__(self, file: header.File, subject: str) -> None:
        self._file = file
        self._subject = subject
        self._places: list[Place] = []
        self._arrays: dict[str, _Array] = {}
        self._read_symbols()
        self._pointers = self._read_pointers()

    def rows(self) -> Iterator[Redirected]:
        """All rows of all objects."""
        objects = self._arrays.get(OBJECTS)
        if objects is None:
            raise ElfError(self._subject, f"has no table {OBJECTS}, so livegraft did not build it")
        by_place = {(each.section, each.start): each for each in self._arrays.values()}
        for at in self._within(objects):
            array = by_place.get(self._pointers[objects.section, at])
            if array is None or array is objects:
                continue
            name = self._string((objects.section, at - _FUNCTIONS_AT)) or VMLINUX
            yield from self._functions(array, name)

    def _functions(self, array: _Array, owner: str) -> Iterator[Redirected]:
        data = self._file.bytes_of(self._file.sections[array.section])
        offsets = self._within(array)
        for name, code in zip(offsets[::2], offsets[1::2], strict=False):
            if code != name + _CODE_AT or len(offsets) % 2:
                raise ElfError(self._subject, "its tables of functions are not as livegraft's")
            (position,) = struct.unpack_from(f"{self._file.byte_order}Q", data, name + _POSITION_AT)
            yield owner, self._string((array.section, name)) or "", position

    def _within(self, array: _Array) -> list[int]:
        """Where in an array's section it has pointers."""
        span = range(array.start, array.start + array.size)
        return sorted(at for number, at in self._pointers if number == array.section and at in span)

    def _string(self, place: Place) -> str | None:
        """The string that a pointer leads to; None if there is no pointer."""
        to = self._pointers.get(place)
        if to is None:
            return None
        section = self._file.sections[to[0]]
        return header.string_at(bytes(self._file.bytes_of(section)), to[1], self._subject)

    def _read_symbols(self) -> None:
        for section in self._file.sections:
            if section.type == SectionType.SYMTAB:
                names = bytes(self._file.bytes_of(self._file.sections[section.link]))
                rows = self._file.bytes_of(section)
                for row in struct.iter_unpack(f"{self._file.byte_order}IBBHQQ", rows):
                    at, _, _, number, value, size = row
                    self._places.append((number, value))
                    if names.startswith((OBJECTS.encode(), FUNCTIONS.encode()), at):
                        name = header.string_at(names, at, self._subject)
                        self._arrays[name] = _Array(number, value, size)

    def _read_pointers(self) -> Mapping[Place, Place]:
        """The pointers in the sections that hold the arrays, and where they lead."""
        holding = {each.section for each in self._arrays.values()}
        kind, found = ABSOLUTE.get(header.Machine(self._file.machine)), {}
        for section in self._file.sections:
            if section.type == SectionType.RELA and section.info in holding:
                rows = self._file.bytes_of(section)
                for at, info, addend in struct.iter_unpack(f"{self._file.byte_order}QQq", rows):
                    if info & 0xFFFFFFFF == kind:
                        number, value = self._places[info >> 32]
                        found[section.info, at] = (number, value + addend)
        return found
