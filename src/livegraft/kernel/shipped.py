# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped code that a compiled unit is compared with: the kernel's image or a module's file.

A *place* is an address in the image, or section number and offset in a module file, in one integer
(:func:`livegraft.kernel.symbols.module_place`). Both kinds answer what bytes are at a place and
what the relocation fields there *mean*: S + A of the x86-64 psABI, the symbol's place plus the
addend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from livegraft.changeset import VMLINUX
from livegraft.elf.header import SectionType
from livegraft.elf.object import Relocations
from livegraft.kernel.image import KernelImage, open_image
from livegraft.kernel.kallsyms import open_kallsyms
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import ModuleFile, open_module
from livegraft.kernel.symbols import KernelSymbols, SymbolTable, section_place
from livegraft.progress import SILENT, Progress

Places = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


class Relocation(IntEnum):
    """``ELF64_R_TYPE`` of x86-64, as far as the kernel's objects have them (psABI, table 4.9)."""

    NONE = 0
    ABSOLUTE_64 = 1
    PC32 = 2
    PLT32 = 4
    ABSOLUTE_32 = 10
    ABSOLUTE_32S = 11
    PC64 = 24


FIELD_SIZE = {
    Relocation.ABSOLUTE_64: 8,
    Relocation.PC32: 4,
    Relocation.PLT32: 4,
    Relocation.ABSOLUTE_32: 4,
    Relocation.ABSOLUTE_32S: 4,
    Relocation.PC64: 8,
}
"""Bytes of the field that a relocation fills."""
RELATIVE = (Relocation.PC32, Relocation.PLT32, Relocation.PC64)
"""Relocations that are relative to their own place."""

_UNLISTED = "kallsyms_"
"""What is not in kallsyms: its own tables (is_ignored_symbol() of scripts/kallsyms.c, later
scripts/mksysmap)."""


@dataclass(frozen=True, slots=True)
class Meanings:
    """What the shipped code has where the unit has relocations.

    Args:
        places: S + A per relocation.
        known: whether there is such a relocation at all.
        extra: offsets of relocations that the shipped code has and the unit has not.
    """

    places: Places
    known: Flags
    extra: Places


class Shipped(ABC):
    """Shipped code.

    Args:
        symbols: its symbols by name and place.
    """

    fields_hold_values: bool
    """Whether relocation fields are filled, so that their bytes are not the compiler's."""

    def __init__(self, symbols: SymbolTable) -> None:
        self.symbols = symbols

    @property
    def object(self) -> str:
        """``vmlinux`` or the module's name."""
        return self.symbols.object

    @abstractmethod
    def contents(self, place: int, size: int) -> Bytes | None:
        """The bytes at a place; None where the file has none (BSS, outside)."""

    @abstractmethod
    def meanings(self, place: int, size: int, relocations: Relocations) -> Meanings:
        """What the fields of a stretch mean.

        Args:
            place: where the stretch starts.
            size: how long it is, in bytes.
            relocations: the unit's, with offsets from its start.
        """

    @abstractmethod
    def external(self, name: str) -> tuple[int, ...]:
        """Where a symbol may be that the unit refers to and does not define, the likeliest first.

        One that is defined outside of the shipped object gets a place that nothing else has.
        """

    def lacks(self, name: str) -> bool:
        """Whether the symbol table leaves the symbol `name` out although it exists."""
        return False


class ImageCode(Shipped):
    """Code in vmlinux: linked, so that a field holds the value itself."""

    fields_hold_values = True

    def __init__(self, image: KernelImage, symbols: KernelSymbols) -> None:
        super().__init__(symbols)
        self.image = image

    def contents(self, place: int, size: int) -> Bytes | None:
        return self.image.array(place, size) if self.image.has(place, size) else None

    def meanings(self, place: int, size: int, relocations: Relocations) -> Meanings:
        found = np.zeros(len(relocations), dtype=np.uint64)
        known = np.zeros(len(relocations), dtype=np.bool_)
        bytes_of = self.contents(place, size)
        if bytes_of is not None:
            for kind in np.unique(relocations["type"]).tolist():
                chosen = np.flatnonzero(relocations["type"] == kind)
                offsets = relocations["offset"][chosen].astype(np.int64)
                found[chosen] = _fields(bytes_of, offsets, kind)
                if kind in RELATIVE:
                    found[chosen] += np.uint64(place) + offsets.astype(np.uint64)
                known[chosen] = True
        return Meanings(found, known, np.empty(0, dtype=np.uint64))

    def external(self, name: str) -> tuple[int, ...]:
        entries = sorted(self.symbols.entries(name), key=lambda entry: not entry.is_global)
        return tuple(entry.place for entry in entries)

    def lacks(self, name: str) -> bool:
        return name.startswith(_UNLISTED)


class ModuleCode(Shipped):
    """Code in a ``.ko``: relocatable, so that it has the unit's relocations, moved."""

    fields_hold_values = False

    def __init__(self, module: ModuleFile) -> None:
        super().__init__(module.symbols)
        self.module = module
        self._places = np.zeros(len(module.object.symbols), dtype=np.uint64)
        self._externals: dict[str, int] = {}
        for number, symbol in enumerate(module.object.symbols):
            if symbol.is_undefined and symbol.name:
                place = _outside(number)
                self._externals[symbol.name] = place
            else:
                place = section_place(symbol.section) + symbol.value
            self._places[number] = place

    def contents(self, place: int, size: int) -> Bytes | None:
        section = self.module.object.sections[place >> 32]
        offset = place & 0xFFFFFFFF
        if section.type == SectionType.NOBITS or offset + size > section.size:
            return None
        return np.frombuffer(section.data, dtype=np.uint8, count=size, offset=offset)

    def meanings(self, place: int, size: int, relocations: Relocations) -> Meanings:
        own = self.module.object.sections[place >> 32].relocations
        start = np.uint64(place & 0xFFFFFFFF)
        inside = (own["offset"] >= start) & (own["offset"] < start + np.uint64(size))
        own = own[inside & (own["type"] != Relocation.NONE)]
        own = own[np.argsort(own["offset"], kind="stable")]
        offsets = own["offset"] - start
        at = np.searchsorted(offsets, relocations["offset"])
        at = np.minimum(at, max(len(own) - 1, 0))
        if not len(own):
            nothing = np.zeros(len(relocations), dtype=np.uint64)
            return Meanings(nothing, nothing.astype(np.bool_), offsets)
        same = own[at]
        known = (offsets[at] == relocations["offset"]) & (same["type"] == relocations["type"])
        places = self._places[same["symbol"]] + same["addend"].astype(np.uint64)
        return Meanings(places, known, np.setdiff1d(offsets, relocations["offset"]))

    def external(self, name: str) -> tuple[int, ...]:
        place = self.module.defines(name)
        if place is None:
            place = self._externals.get(name)
        return () if place is None else (place,)


_OPEN: dict[tuple[Kernel, str], Shipped] = {}
_MOST_OPEN = 8


def open_shipped(kernel: Kernel, object: str, progress: Progress = SILENT) -> Shipped:
    """The shipped code of vmlinux or of a module; the last ones stay open.

    Raises:
        KernelError: the kernel ships no such module.
        ImageError: the image or the module is damaged.
    """
    key = (kernel, object)
    if key not in _OPEN:
        while len(_OPEN) >= _MOST_OPEN:
            _OPEN.pop(next(iter(_OPEN)), None)
        _OPEN[key] = _open(kernel, object, progress)
    return _OPEN[key]


def _open(kernel: Kernel, object: str, progress: Progress) -> Shipped:
    if object != VMLINUX:
        return ModuleCode(open_module(kernel, object))
    image = open_image(kernel, progress)
    return ImageCode(image, KernelSymbols(open_kallsyms(kernel, image, progress)))


def _outside(number: int) -> int:
    """The place of an undefined symbol of a module: beyond every section number."""
    return 1 << 63 | number << 32


def _fields(data: Bytes, offsets: npt.NDArray[np.int64], kind: int) -> Places:
    """The values of relocation fields, sign-extended where the relocation type is signed."""
    size = FIELD_SIZE[Relocation(kind)]
    raw = data[offsets[:, None] + np.arange(size)]
    if size == 8:
        return np.ascontiguousarray(raw).view("<u8").ravel().astype(np.uint64)
    signed = kind != Relocation.ABSOLUTE_32
    values = np.ascontiguousarray(raw).view("<i4" if signed else "<u4").ravel()
    return values.astype(np.int64).astype(np.uint64)
