# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the running kernel may be entered by an indirect call (``CONFIG_X86_KERNEL_IBT``).

With indirect branch tracking an indirect call has to land on ENDBR64, else the processor raises
#CP and the kernel stops the task. The compiler puts one at the start of what may be called so;
objtool lists those that no pointer leads to in ``.ibt_endbr_seal``, and the kernel overwrites them
when it starts, or when it loads the module (``apply_seal_endbr()`` of
arch/x86/kernel/alternative.c). The list stays in the image, as offsets from each entry's own place.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from livegraft.changeset import VMLINUX, Target
from livegraft.elf.arch.x86_64 import ENDBR64
from livegraft.elf.header import SectionFlag
from livegraft.elf.object import ElfObject
from livegraft.kernel.image import KernelImage
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import open_module
from livegraft.kernel.shipped import ImageCode, open_shipped
from livegraft.kernel.symbols import module_place
from livegraft.progress import SILENT, Progress

SEALED = ".ibt_endbr_seal"
SETTING = "CONFIG_X86_KERNEL_IBT"


class Entrance(StrEnum):
    """What an indirect call of a place meets."""

    OPEN = "begins with ENDBR"
    SEALED = "has no ENDBR any more: the kernel removes it where no pointer leads to a function"
    CLOSED = "does not begin with ENDBR"
    DATA = "is no code"


class Entrances:
    """The places of a kernel and its modules that pointers may lead to.

    Args:
        kernel: the prepared kernel.
        progress: told when its image has to be unpacked.
    """

    def __init__(self, kernel: Kernel, progress: Progress = SILENT) -> None:
        self._kernel = kernel
        shipped = open_shipped(kernel, VMLINUX, progress)
        assert isinstance(shipped, ImageCode)
        self._shipped = shipped
        self._sealed = _sealed_addresses(shipped.image)

    def of(self, target: Target, offset: int = 0) -> Entrance:
        """What is at an offset from a symbol.

        Raises:
            KernelError: the kernel ships no such module.
        """
        if target.object != VMLINUX:
            return self._in_module(target, offset)
        places = self._shipped.symbols.places(target.name)
        return self._at(places[target.sympos - 1] + offset)

    def exported(self, name: str, offset: int = 0) -> Entrance:
        """The same for a symbol that vmlinux exports."""
        places = self._shipped.external(name)
        # Only a few absolute symbols are in no table: nothing that could be called.
        return self._at(places[0] + offset) if places else Entrance.DATA

    def _at(self, address: int) -> Entrance:
        image = self._shipped.image
        section = image.section_at(address)
        if section is None or not section.flags & SectionFlag.EXECINSTR:
            return Entrance.DATA
        if address in self._sealed:
            return Entrance.SEALED
        if image.has(address, len(ENDBR64)) and image.read(address, len(ENDBR64)) == ENDBR64:
            return Entrance.OPEN
        return Entrance.CLOSED

    def _in_module(self, target: Target, offset: int) -> Entrance:
        module = open_module(self._kernel, target.object)
        place = module.symbols.places(target.name)[target.sympos - 1] + offset
        return entrance_in(module.object, place >> 32, place & 0xFFFFFFFF)


def entrance_in(obj: ElfObject, number: int, offset: int) -> Entrance:
    """What is at an offset in a section of a relocatable object."""
    section = obj.sections[number]
    if not section.is_code:
        return Entrance.DATA
    if (number << 32 | offset) in sealed_places(obj):
        return Entrance.SEALED
    found = section.data[offset : offset + len(ENDBR64)]
    return Entrance.OPEN if found == ENDBR64 else Entrance.CLOSED


def sealed_places(obj: ElfObject) -> frozenset[int]:
    """The places (:func:`~livegraft.kernel.symbols.module_place`) that a module has sealed."""
    number = obj.section_number(SEALED)
    if number is None:
        return frozenset()
    return frozenset(
        module_place(obj.symbols[int(entry["symbol"])]) + int(entry["addend"])
        for entry in obj.sections[number].relocations
    )


def _sealed_addresses(image: KernelImage) -> frozenset[int]:
    section = next((each for each in image.sections if each.name == SEALED), None)
    if section is None:
        return frozenset()
    offsets = image.array(section.address, section.size).view("<i4").astype(np.int64)
    places = section.address + 4 * np.arange(len(offsets), dtype=np.uint64)
    return frozenset((places + offsets.astype(np.uint64)).tolist())
