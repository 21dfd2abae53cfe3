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

from livegraft.changeset import PATCH_SYMBOL, VMLINUX, CallbackKind, SystemState, Target
from livegraft.elf.arch.x86_64 import R_64
from livegraft.elf.header import SHN_LIVEPATCH, SectionFlag, SectionType, string_at
from livegraft.elf.object import ElfObject, Symbol
from livegraft.errors import ModuleError
from livegraft.module.link import FUNCTION_ARRAY
from livegraft.module.livepatch_relocations import (
    FLAGS,
    OURSELVES,
    SECTION_PREFIX,
    section_name,
)

OBJECT_ARRAY = "lg_objects"
CALLBACK_ARRAY = "lg_callbacks_"
STATE_ARRAY = "lg_states"
PATCH = PATCH_SYMBOL

_OBJECTS_AT, _STATES_AT = 8, 16
"""Offsets in ``struct klp_patch``."""
_FUNCTIONS_AT, _CALLBACKS_AT = 8, 16
"""Offsets in ``struct klp_object``."""
_CALLBACKS_SIZE, _STATE_SIZE = 40, 24
"""``struct klp_callbacks`` and ``struct klp_state``."""
_CALLBACK_AT = {kind: 8 * position for position, kind in enumerate(CallbackKind)}
"""Offsets in ``struct klp_callbacks``."""

_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.([^,]+),(\d+)")


@dataclass(frozen=True, slots=True)
class Redirection:
    """A function that is redirected: its target, and the symbol of the new code."""

    target: Target
    symbol: str


@dataclass(frozen=True, slots=True)
class CallbackRow:
    """One callback: its object, the file's place among those of the object, when, and the code."""

    object: str
    row: int
    kind: CallbackKind
    symbol: str


@dataclass(frozen=True, slots=True)
class Patch:
    """What the core reads in ``struct klp_patch``.

    Args:
        redirections: the functions that are redirected.
        callbacks: what is called around that.
        states: what the patch changes in the system beside code.
    """

    redirections: tuple[Redirection, ...]
    callbacks: tuple[CallbackRow, ...]
    states: tuple[SystemState, ...]


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


def patch(obj: ElfObject) -> Patch:
    """What the module's ``struct klp_patch`` says.

    Raises:
        ModuleError: its structures are not as the glue has them.
    """
    return _Reader(obj).patch()


class _Reader:
    """Follows the structures of the glue by their symbols and pointers."""

    def __init__(self, obj: ElfObject) -> None:
        self.pointers = Pointers(obj)
        self.named = {each.name: each for each in obj.symbols if each.in_section and each.name}
        self.code = {
            (symbol.section, symbol.value): symbol.name
            for symbol in obj.symbols
            if symbol.in_section and symbol.name and symbol.binding
        }

    def patch(self) -> Patch:
        patch, objects = self._required(PATCH), self._required(OBJECT_ARRAY)
        if self.pointers.place(patch, _OBJECTS_AT) != _start(objects):
            raise ModuleError(PATCH, "does not lead to the objects")
        arrays = self._arrays(FUNCTION_ARRAY)
        rows = _rows(
            objects,
            len(arrays),
            lambda row: self.pointers.to(objects, row + _FUNCTIONS_AT) is not None,
        )
        redirections: list[Redirection] = []
        callbacks: list[CallbackRow] = []
        chains = self._arrays(CALLBACK_ARRAY)
        for number, row in enumerate(rows):
            name = self.pointers.string(objects, row)
            array = arrays.pop(self.pointers.place(objects, row + _FUNCTIONS_AT) or (0, 0), None)
            if array is None or name == VMLINUX:
                raise ModuleError(OBJECT_ARRAY, f"the object at {row} is not as it should be")
            redirections += self._functions(array, name or VMLINUX)
            chain = self.named.get(f"{CALLBACK_ARRAY}{number}")
            for kind, at in _CALLBACK_AT.items():
                glue = _start(self._required(f"lg_{kind}")) if chain is not None else None
                if self.pointers.place(objects, row + _CALLBACKS_AT + at) != glue:
                    problem = f"the {kind} callback at {row} is not as it should be"
                    raise ModuleError(OBJECT_ARRAY, problem)
            if chain is not None:
                del chains[_start(chain)]
                callbacks += self._callbacks(chain, name or VMLINUX)
        if chains:
            raise ModuleError(min(each.name for each in chains.values()), "belongs to no object")
        return Patch(tuple(redirections), tuple(callbacks), self._states(patch))

    def _required(self, name: str) -> Symbol:
        if name not in self.named:
            raise ModuleError(name, "is not in the module, so livegraft did not build it")
        return self.named[name]

    def _arrays(self, prefix: str) -> dict[tuple[int, int], Symbol]:
        """The numbered arrays of a kind, by their places."""
        names = [name for name in self.named if re.fullmatch(rf"{prefix}\d+", name)]
        return {_start(self.named[name]): self.named[name] for name in names}

    def _target(self, symbol: Symbol, offset: int) -> str:
        """The global symbol that a pointer leads to, "" if it leads to none."""
        return self.code.get(self.pointers.place(symbol, offset) or (0, 0), "")

    def _functions(self, array: Symbol, object: str) -> list[Redirection]:
        offsets = set(self.pointers.within(array))
        found = []
        for row in _rows(array, len(offsets) // 2, lambda row: {row, row + 8} <= offsets):
            name, symbol = self.pointers.string(array, row), self._target(array, row + 8)
            if not name or not symbol:
                raise ModuleError(array.name, f"the function at {row} is not as it should be")
            position = self.pointers.number(array, row + 16)
            found.append(Redirection(Target(object, name, position), symbol))
        return found

    def _callbacks(self, array: Symbol, object: str) -> list[CallbackRow]:
        offsets = self.pointers.within(array)
        found = []
        for row in range(0, array.size, _CALLBACKS_SIZE):
            for kind, at in _CALLBACK_AT.items():
                if row + at in offsets:
                    symbol = self._target(array, row + at)
                    found.append(CallbackRow(object, row // _CALLBACKS_SIZE, kind, symbol))
        if len(found) != len(offsets) or not all(each.symbol for each in found):
            raise ModuleError(array.name, "leads to something else than callbacks")
        return found

    def _states(self, patch: Symbol) -> tuple[SystemState, ...]:
        place, array = self.pointers.place(patch, _STATES_AT), self.named.get(STATE_ARRAY)
        if place is None and array is None:
            return ()
        if array is None or place != _start(array) or array.size % _STATE_SIZE:
            raise ModuleError(PATCH, "does not lead to the states")
        rows = [
            SystemState(
                self.pointers.number(array, at), self.pointers.number(array, at + 8) & 0xFFFFFFFF
            )
            for at in range(0, array.size, _STATE_SIZE)
        ]
        if rows[-1].id or not all(each.id for each in rows[:-1]):
            raise ModuleError(STATE_ARRAY, "does not end where it should")
        return tuple(rows[:-1])


def _start(symbol: Symbol) -> tuple[int, int]:
    return symbol.section, symbol.value


def _rows(array: Symbol, count: int, is_row: Callable[[int], bool]) -> range:
    """The starts of an array's entries, without the last one, which is zeros."""
    size = array.size // (count + 1)
    if size * (count + 1) != array.size or size % 8 or size < 24:
        raise ModuleError(array.name, f"is no array of {count} entries and an end")
    rows = range(0, count * size, size)
    if not all(map(is_row, rows)):
        raise ModuleError(array.name, "its entries are not where they should be")
    return rows


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
    return VMLINUX if owner == OURSELVES else owner
