# SPDX-License-Identifier: GPL-2.0-or-later
"""What the livepatch core will read in a module, read out of the module's file.

The glue's arrays of ``struct klp_func`` and ``struct klp_object`` are found by their symbols. Each
array ends with an entry of zeros; how big an entry is follows from the array's size, because the
internal members differ between kernels. The external ones (include/linux/livepatch.h) come first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from livegraft.changeset import VMLINUX, Target
from livegraft.elf.arch.x86_64 import R_64
from livegraft.elf.header import SHN_LIVEPATCH, SectionFlag, SectionType, string_at
from livegraft.elf.object import ElfObject, Symbol
from livegraft.errors import ModuleError
from livegraft.module.link import FUNCTION_ARRAY
from livegraft.module.livepatch_relocations import FLAGS, SECTION_PREFIX, section_name

OBJECT_ARRAY = "lg_objects"
PATCH = "lg_patch"

_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.([^,]+),(\d+)")


@dataclass(frozen=True, slots=True)
class Redirection:
    """A function that is redirected: its target, and the symbol of the new code."""

    target: Target
    symbol: str


@dataclass(frozen=True, slots=True)
class LivepatchRelocations:
    """All relocations of one owner against one livepatch symbol."""

    owner: str
    target: Target
    count: int


class Pointers:
    """The pointers in a module's data: relocations R_X86_64_64 by section and offset."""

    def __init__(self, obj: ElfObject) -> None:
        self.obj = obj
        self._by_place = {
            (number, int(entry["offset"])): (int(entry["symbol"]), int(entry["addend"]))
            for number, section in enumerate(obj.sections)
            if section.is_alloc and not section.is_code and section.type != SectionType.RELA
            for entry in section.relocations
            if int(entry["type"]) == R_64
        }

    def within(self, symbol: Symbol) -> list[int]:
        """Offsets from the symbol's start at which there are pointers."""
        span = range(symbol.value, symbol.value + symbol.size)
        return sorted(
            offset - symbol.value
            for section, offset in self._by_place
            if section == symbol.section and offset in span
        )

    def to(self, symbol: Symbol, offset: int) -> tuple[Symbol, int] | None:
        """Symbol and addend of the pointer at an offset from a symbol's start."""
        found = self._by_place.get((symbol.section, symbol.value + offset))
        return None if found is None else (self.obj.symbols[found[0]], found[1])

    def place(self, symbol: Symbol, offset: int) -> tuple[int, int] | None:
        """Section and offset that the pointer leads to."""
        found = self.to(symbol, offset)
        return None if found is None else (found[0].section, found[0].value + found[1])

    def string(self, symbol: Symbol, offset: int) -> str | None:
        """The string that the pointer leads to."""
        found = self.place(symbol, offset)
        if found is None or not 0 < found[0] < len(self.obj.sections):
            return None
        return string_at(self.obj.sections[found[0]].data, found[1], symbol.name)

    def number(self, symbol: Symbol, offset: int) -> int:
        """The ``unsigned long`` at an offset from a symbol's start."""
        data = self.obj.sections[symbol.section].data
        at = symbol.value + offset
        if at < 0 or at + 8 > len(data):
            raise ModuleError(symbol.name, "lies outside of its section")
        value: int = struct.unpack_from("<Q", data, at)[0]
        return value


def redirections(obj: ElfObject) -> tuple[Redirection, ...]:
    """The functions that the module's ``struct klp_patch`` redirects.

    Raises:
        ModuleError: its structures are not as the glue has them.
    """
    named = {symbol.name: symbol for symbol in obj.symbols if symbol.in_section and symbol.name}
    pointers = Pointers(obj)
    patch, objects = _required(named, PATCH), _required(named, OBJECT_ARRAY)
    if pointers.place(patch, 8) != (objects.section, objects.value):
        raise ModuleError(PATCH, "does not lead to the objects")
    arrays = sorted(name for name in named if re.fullmatch(rf"{FUNCTION_ARRAY}\d+", name))
    by_place = {(named[name].section, named[name].value): named[name] for name in arrays}
    rows = _rows(objects, len(arrays), lambda offset: pointers.to(objects, offset + 8) is not None)
    found: list[Redirection] = []
    for row in rows:
        name = pointers.string(objects, row)
        array = by_place.pop(pointers.place(objects, row + 8) or (0, 0), None)
        if array is None or name == VMLINUX:
            raise ModuleError(OBJECT_ARRAY, f"the object at {row} is not as it should be")
        found += _functions(obj, pointers, array, name or VMLINUX)
    return tuple(found)


def _functions(obj: ElfObject, pointers: Pointers, array: Symbol, object: str) -> list[Redirection]:
    offsets = pointers.within(array)
    rows = _rows(array, len(offsets) // 2, lambda offset: {offset, offset + 8} <= set(offsets))
    code = {
        (symbol.section, symbol.value): symbol.name
        for symbol in obj.symbols
        if symbol.in_section and symbol.name and symbol.binding
    }
    found = []
    for row in rows:
        name = pointers.string(array, row)
        symbol = code.get(pointers.place(array, row + 8) or (0, 0))
        if not name or not symbol:
            raise ModuleError(array.name, f"the function at {row} is not as it should be")
        found.append(Redirection(Target(object, name, pointers.number(array, row + 16)), symbol))
    return found


def _rows(array: Symbol, count: int, is_row: Callable[[int], bool]) -> range:
    """The starts of an array's entries, without the last one, which is zeros."""
    size = array.size // (count + 1)
    if count == 0 or size * (count + 1) != array.size or size % 8 or size < 24:
        raise ModuleError(array.name, f"is no array of {count} entries and an end")
    rows = range(0, count * size, size)
    if not all(map(is_row, rows)):
        raise ModuleError(array.name, "its entries are not where they should be")
    return rows


def _required(named: dict[str, Symbol], name: str) -> Symbol:
    if name not in named:
        raise ModuleError(name, "is not in the module, so livegraft did not build it")
    return named[name]


def livepatch_relocations(obj: ElfObject) -> tuple[LivepatchRelocations, ...]:
    """The module's livepatch relocations, checked by the rules of the livepatch core.

    Raises:
        ModuleError: the core or the loader would refuse them, or ignore one.
    """
    targets = livepatch_targets(obj)
    counts: dict[tuple[str, Target], int] = {}
    for section in obj.sections:
        entries = section.relocations["symbol"].tolist()
        own = section.type == SectionType.RELA
        if not own and any(symbol in targets for symbol in entries):
            raise ModuleError(section.name, "refers to a livepatch symbol in the ordinary way")
        if not own:
            continue
        owner = _owner(obj, section.name, section.flags, section.info)
        for symbol in entries:
            target = targets.get(symbol)
            if target is None:
                name = obj.symbols[symbol].name
                raise ModuleError(section.name, f"refers to {name!r}, no livepatch symbol")
            if (owner == VMLINUX) != (target.object == VMLINUX):
                raise ModuleError(section.name, f"refers to {target.name} of {target.object}")
            counts[owner, target] = counts.get((owner, target), 0) + 1
    unused = set(targets.values()) - {target for _, target in counts}
    if unused:
        raise ModuleError(min(each.name for each in unused), "is a livepatch symbol without use")
    order = sorted(counts, key=lambda key: (key[0], key[1].object, key[1].name, key[1].sympos))
    return tuple(LivepatchRelocations(*key, counts[key]) for key in order)


def livepatch_targets(obj: ElfObject) -> dict[int, Target]:
    """The module's livepatch symbols by number, and what each means.

    Raises:
        ModuleError: one is named wrongly.
    """
    return {
        number: _target(symbol.name)
        for number, symbol in enumerate(obj.symbols)
        if symbol.section == SHN_LIVEPATCH
    }


def _target(name: str) -> Target:
    match = _KLP_SYMBOL.fullmatch(name)
    if match is None or int(match[3]) < 1:
        raise ModuleError(name, "is not the name of a livepatch symbol with a position")
    return Target(match[1], match[2], int(match[3]))


def _owner(obj: ElfObject, name: str, flags: int, info: int) -> str:
    owner = name.removeprefix(SECTION_PREFIX).partition(".")[0]
    applies_to = obj.sections[info] if 0 < info < len(obj.sections) else None
    if (
        applies_to is None
        or flags != FLAGS
        or not applies_to.flags & SectionFlag.ALLOC
        or name != section_name(owner, applies_to.name)
    ):
        raise ModuleError(name, "is not a section of livepatch relocations as the core expects it")
    return owner
