# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions a live patch redirects, by the tables that the kernel itself will read.

The module's ``struct klp_object`` and ``struct klp_func`` (include/linux/livepatch.h) are found by
the symbols that the builder gives them. The file holds no pointers but their relocations: a row of
functions begins with those of its name and of its new code.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from livegraft.elf import header
from livegraft.elf.header import SectionType
from livegraft.errors import ElfError
from livegraft.runtime.stacks import VMLINUX

OBJECTS = "lg_objects"
FUNCTIONS = "lg_funcs_"
"""The arrays' symbols; the second is followed by a number."""

_OBJECTS_NAME, _FUNCTIONS_NAME = OBJECTS.encode() + b"\0", FUNCTIONS.encode()

ABSOLUTE = {header.Machine.X86_64: 1, header.Machine.AARCH64: 257}
"""Relocations of 64-bit pointers: R_X86_64_64, R_AARCH64_ABS64."""

_FUNCTIONS_AT = 8
"""Offset of ``funcs`` in ``struct klp_object``; ``name`` comes first."""
_CODE_AT, _POSITION_AT = 8, 16
"""Offsets of ``new_func`` and ``old_sympos`` in ``struct klp_func``; ``old_name`` comes first."""

Place = tuple[int, int]
"""A section's number and an offset in it."""

Redirected = tuple[str, str, int]
"""Object, function and its position among those of that name (``old_sympos``)."""


_LONGEST = 512
"""``KSYM_NAME_LEN`` of include/linux/kallsyms.h: no name of the kernel's has more bytes."""


class _Array(NamedTuple):
    section: int
    start: int
    size: int


def redirected(file: header.File, subject: str) -> frozenset[Redirected]:
    """The functions that a module's tables redirect.

    Args:
        file: the module. It may be anybody's: nothing was verified yet.
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
        self._objects: _Array | None = None
        self._functions: dict[Place, _Array] = {}
        self._read_symbols()
        self._pointers = self._read_pointers()
        self._offsets: dict[int, list[int]] = {}
        for number, at in sorted(self._pointers):
            self._offsets.setdefault(number, []).append(at)

    def rows(self) -> Iterator[Redirected]:
        """All rows of all objects."""
        objects = self._objects
        if objects is None:
            raise ElfError(self._subject, f"has no table {OBJECTS}, so livegraft did not build it")
        for at in self._within(objects):
            # Each table belongs to one object, so that no file has more rows than bytes.
            array = self._functions.pop(self._pointers[objects.section, at], None)
            if array is not None:
                name = self._string((objects.section, at - _FUNCTIONS_AT)) or VMLINUX
                yield from self._rows_of(array, name)

    def _rows_of(self, array: _Array, owner: str) -> Iterator[Redirected]:
        data = self._file.bytes_of(self._file.sections[array.section])
        offsets = self._within(array)
        if len(offsets) % 2:
            raise ElfError(self._subject, "its tables of functions are not as livegraft's")
        for name, code in zip(offsets[::2], offsets[1::2], strict=True):
            if code != name + _CODE_AT:
                raise ElfError(self._subject, "its tables of functions are not as livegraft's")
            (position,) = struct.unpack_from(f"{self._file.byte_order}Q", data, name + _POSITION_AT)
            yield owner, self._string((array.section, name)) or "", position

    def _within(self, array: _Array) -> list[int]:
        """Where in an array's section it has pointers."""
        offsets = self._offsets.get(array.section, [])
        end = array.start + array.size
        return offsets[bisect_left(offsets, array.start) : bisect_left(offsets, end)]

    def _string(self, place: Place) -> str | None:
        """The string that a pointer leads to; None if there is no pointer."""
        to = self._pointers.get(place)
        if to is None:
            return None
        number, at = to
        data = self._file.bytes_of(self._file.sections[number])
        if not 0 <= at < len(data):
            raise ElfError(self._subject, "its tables of functions lead out of a section")
        return header.string_at(bytes(data[at : at + _LONGEST]), 0, self._subject)

    def _read_symbols(self) -> None:
        for section in self._file.sections:
            if section.type == SectionType.SYMTAB:
                names = bytes(self._file.bytes_of(self._file.sections[section.link]))
                rows = self._file.bytes_of(section)
                for row in struct.iter_unpack(f"{self._file.byte_order}IBBHQQ", rows):
                    at, _, _, number, value, size = row
                    self._places.append((number, value))
                    if names.startswith(_OBJECTS_NAME, at):
                        self._objects = _Array(number, value, size)
                    elif names.startswith(_FUNCTIONS_NAME, at):
                        self._functions[number, value] = _Array(number, value, size)

    def _read_pointers(self) -> Mapping[Place, Place]:
        """The pointers in the sections that hold the arrays, and where they lead."""
        holding = {each.section for each in (*self._functions.values(), self._objects) if each}
        kind, found = ABSOLUTE.get(header.Machine(self._file.machine)), {}
        for section in self._file.sections:
            if section.type == SectionType.RELA and section.info in holding:
                rows = self._file.bytes_of(section)
                for at, info, addend in struct.iter_unpack(f"{self._file.byte_order}QQq", rows):
                    if info & 0xFFFFFFFF == kind:
                        number, value = self._places[info >> 32]
                        found[section.info, at] = (number, value + addend)
        return found
