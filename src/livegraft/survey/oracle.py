# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the relocations of a loaded live patch lead where the patched object file says.

The kernel wrote an address into each place; it is read back from memory. What it has to be is found
out here once more, by another way than the one that built the module and with none of its code: the
place lies in a function of the module; the patched object file has the same function, and at the
same offset a relocation that names a symbol; :mod:`livegraft.survey.running` tells where that is.

Formats: x86-64 psABI, table "Relocation Types"; ``.klp.sym`` as the kernel's
Documentation/livepatch/module-elf-format.rst has it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from livegraft.survey.objectfile import Elf, Relocation, place_in
from livegraft.survey.rewritten import rewritten
from livegraft.survey.running import FUNCTION, RELATIVE, WORD, Running, Unit

_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.(.+),(\d+)$")

_SIZES = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
"""Bytes of R_X86_64_64, PC32, PLT32, 32, 32S, PC64."""
_SIGNED = frozenset((2, 4, 11, 24))

_SORTED = {"__jump_table": (16, "<q", 0b11), ".static_call_sites": (8, "<i", 0b11)}
"""Tables that the kernel sorts when it loads the module: bytes of an entry, its key, and the bits
of the key that the kernel uses for itself. The key is relative to its own place and comes last; at
the start is the place in the code, a signed 32-bit number relative to itself
(include/linux/jump_label.h, ``struct jump_entry``; include/linux/static_call_types.h)."""


class Check(StrEnum):
    """What is known of a relocation."""

    RIGHT = "right"
    WRONG = "wrong"
    REWRITTEN = "rewritten"
    """The kernel has rewritten the instruction since (a static call, an alternative)."""
    UNKNOWN = "unknown"
    """Nothing independent tells what it should be."""
    ABSENT = "absent"
    """The object that it waits for is not loaded."""


UNREAD = frozenset((Check.UNKNOWN, Check.ABSENT))
"""Nothing was held against what has to be there."""


class ReadBack(StrEnum):
    """How much of a module the oracle could judge."""

    ALL = "all"
    PARTLY = "partly"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one livepatch relocation.

    Args:
        place: where it is.
        symbol: what it names.
        check: whether it is right.
        detail: what was found, if it is not.
    """

    place: str
    symbol: str
    check: Check
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.symbol}" + (f": {self.detail}" if self.detail else "")


def read_back(verdicts: Sequence[Verdict]) -> ReadBack:
    """How much of a module was judged; a module that refers to nothing has no verdicts."""
    unread = sum(each.check in UNREAD for each in verdicts)
    if not unread:
        return ReadBack.ALL
    return ReadBack.PARTLY if unread < len(verdicts) else ReadBack.NOTHING


class Module:
    """A live patch module, read for the oracle.

    Args:
        data: the file.
    """

    def __init__(self, data: bytes) -> None:
        self.elf = Elf.read(data)
        self._rewritten = rewritten(self.elf, data)

    def places(self) -> list[tuple[str, int, int]]:
        """What is to be read from memory: section, offset, bytes. Sorted tables are read whole."""
        return [
            (name, 0, self.elf.sizes[each.section])
            if name in _SORTED
            else (name, each.offset, _SIZES.get(each.kind, 8))
            for each in self.elf.livepatch
            for name in (self.elf.names[each.section],)
        ]

    def objects(self) -> set[str]:
        """The objects that its livepatch symbols are in."""
        named = {self.elf.symbols[each.symbol].name for each in self.elf.livepatch}
        return {match[1] for name in named if (match := _KLP_SYMBOL.match(name))}

    def judge(
        self,
        values: Sequence[str],
        sections: Mapping[str, int],
        objects: Mapping[str, Running],
        units: Mapping[str, Sequence[Unit]],
    ) -> list[Verdict]:
        """Judge every relocation.

        One that waits for a module belongs to a unit of that module: another module may hold a copy
        of the same unit.

        Args:
            values: what was read at :meth:`places`, hexadecimal.
            sections: where the module's sections are.
            objects: the loaded objects that the module speaks of, vmlinux included.
            units: the units of the fix by the object that they are linked into.
        """
        every = [unit for some in units.values() for unit in some]
        return [
            self._judge(
                number,
                value,
                sections,
                objects,
                every if owner == "vmlinux" else list(units.get(owner, ())),
            )
            for (number, value), owner in zip(enumerate(values), self.elf.owners, strict=True)
        ]

    def judge_functions(
        self,
        functions: Mapping[str, Iterable[str]],
        objects: Mapping[str, Running],
        units: Mapping[str, Sequence[Unit]],
    ) -> list[Verdict]:
        """Judge which functions it redirects.

        Args:
            functions: ``NAME,POSITION`` by object, as the kernel lists them in sysfs.
            objects: as :meth:`judge` takes them.
            units: the units of the fix by the object that they are linked into.
        """
        return [
            _judge_function(each, objects.get(name), units.get(name, ()))
            for name, listed in functions.items()
            for each in listed
        ]

    def _judge(
        self,
        number: int,
        value: str,
        sections: Mapping[str, int],
        objects: Mapping[str, Running],
        units: list[Unit],
    ) -> Verdict:
        relocation = self.elf.livepatch[number]
        name = self.elf.names[relocation.section]
        place = f"{name}+{relocation.offset:#x}"
        symbol = self.elf.symbols[relocation.symbol].name
        if self.elf.owners[number] not in objects:
            return Verdict(place, symbol, Check.ABSENT)
        actual = self._read(relocation, value, sections)
        if actual is None:
            return Verdict(place, symbol, Check.UNKNOWN, "not read")
        check, detail = self._compared(relocation, actual, objects, units)
        return Verdict(place, symbol, check, detail)

    def _compared(
        self,
        relocation: Relocation,
        actual: int,
        objects: Mapping[str, Running],
        units: list[Unit],
    ) -> tuple[Check, str]:
        """Hold what is in memory against the symbol that is named, and both against the unit."""
        _, _, bits = _SORTED.get(self.elf.names[relocation.section], (0, "", 0))
        start = self._stated(self.elf.symbols[relocation.symbol].name, objects)
        stated = None if start is None else (start + relocation.addend) & ~bits
        wanted = {each & ~bits for each in self._wanted(relocation, units, objects)}
        if stated is None:
            return Check.WRONG, "names no symbol of the running kernel"
        right = Check.RIGHT
        if actual != stated and (relocation.section, relocation.offset) in self._rewritten:
            actual = stated
            right = Check.REWRITTEN
        if actual != stated:
            return Check.WRONG, f"leads to {actual:#x}, but it names {stated:#x}"
        if not wanted:
            return Check.UNKNOWN, "no independent way to it"
        if actual not in wanted:
            return Check.WRONG, f"leads to {actual:#x}, the object file says {_hex(wanted)}"
        return right, ""

    def _read(self, relocation: Relocation, value: str, sections: Mapping[str, int]) -> int | None:
        """The address that is in memory now, the addend of the relocation included."""
        name = self.elf.names[relocation.section]
        memory = bytes.fromhex(value)
        if not memory or relocation.kind not in _SIZES:
            return None
        base = sections[name]
        if name in _SORTED:
            return self._key(relocation, memory, base, sections)
        actual = int.from_bytes(memory, "little", signed=relocation.kind in _SIGNED)
        if relocation.kind in RELATIVE:
            actual += base + relocation.offset
        return actual & WORD

    def _key(
        self, relocation: Relocation, memory: bytes, base: int, sections: Mapping[str, int]
    ) -> int | None:
        """The key of the entry for the same place in the code, wherever it was sorted to."""
        name = self.elf.names[relocation.section]
        size, form, bits = _SORTED[name]
        start = relocation.offset - relocation.offset % size
        code = [
            r for r in self.elf.relocations if (r.section, r.offset) == (relocation.section, start)
        ]
        if len(code) != 1:
            return None
        symbol = self.elf.symbols[code[0].symbol]
        wanted = sections.get(self.elf.names[symbol.section], 0) + symbol.value + code[0].addend
        for at in range(0, len(memory) - size + 1, size):
            (place,) = struct.unpack_from("<i", memory, at)
            if base + at + place == wanted:
                within = at + size - struct.calcsize(form)
                key: int = struct.unpack_from(form, memory, within)[0]
                return (base + within + key) & ~bits & WORD
        return None

    def _stated(self, symbol: str, objects: Mapping[str, Running]) -> int | None:
        """Where the symbol is by object, name and position."""
        match = _KLP_SYMBOL.match(symbol)
        if match is None or match[1] not in objects:
            return None
        entries = objects[match[1]].named(match[2])
        position = int(match[3])
        if position > len(entries) or (position == 0 and len(entries) != 1):
            return None
        return entries[max(position, 1) - 1].address

    def _wanted(
        self, relocation: Relocation, units: list[Unit], objects: Mapping[str, Running]
    ) -> set[int]:
        found: set[int] = set()
        for unit in units:
            if (theirs := self._counterpart(relocation, unit)) is not None:
                found |= unit.target(*theirs)
        if not found and self._is_glue(relocation):
            symbol = _KLP_SYMBOL.match(self.elf.symbols[relocation.symbol].name)
            entries = objects["vmlinux"].named(symbol[2]) if symbol else ()
            return {each.address + relocation.addend for each in entries if len(entries) == 1}
        return found

    def _counterpart(self, relocation: Relocation, unit: Unit) -> tuple[Relocation, str] | None:
        """The same relocation in the patched object file, and the function that it belongs to."""
        holder = self.elf.containing(relocation.section, relocation.offset)
        if holder is not None and holder.kind == FUNCTION:
            theirs = unit.relocation(holder.name, relocation.offset - holder.value)
            return (theirs, holder.name) if theirs is not None else None
        table = self.elf.names[relocation.section]
        for each in self.elf.relocations:
            distance = relocation.offset - each.offset
            if each.section == relocation.section and 0 < distance <= 8:
                place = place_in(self.elf, each)
                if place is not None:
                    theirs = unit.beside(table, *place, distance)
                    if theirs is not None:
                        return theirs, place[0]
        return None

    def _is_glue(self, relocation: Relocation) -> bool:
        holder = self.elf.containing(relocation.section, relocation.offset)
        return holder is not None and holder.name.startswith("lg_")


def _judge_function(listed: str, running: Running | None, units: Sequence[Unit]) -> Verdict:
    name, _, position = listed.rpartition(",")
    if running is None:
        return Verdict("function", listed, Check.ABSENT)
    entries = running.named(name)
    wanted = {address for unit in units for address in unit.replaced(name)}
    if not 0 < int(position) <= len(entries):
        return Verdict("function", listed, Check.WRONG, "is not in the running object")
    if not wanted:
        return Verdict("function", listed, Check.UNKNOWN, "no independent way to it")
    address = entries[int(position) - 1].address
    if address not in wanted:
        detail = f"is at {address:#x}, the object file says {_hex(wanted)}"
        return Verdict("function", listed, Check.WRONG, detail)
    return Verdict("function", listed, Check.RIGHT)


def _hex(addresses: Iterable[int]) -> str:
    return " or ".join(f"{each:#x}" for each in sorted(addresses))
