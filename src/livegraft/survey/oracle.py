# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the relocations of a loaded live patch lead where the patched object file says.

The kernel wrote an address into each place; it is read back from memory. What it has to be is found
out here once more, by another way than the one that built the module and with none of its code:

- the place lies in a function of the module; the patched object file has the same function, and at
  the same offset a relocation that names a symbol;
- a global symbol is the global one of that name in the running object, else in the kernel;
- a local one lies where the unpatched object file puts it: its sections lie in the running object
  in one piece, so the symbols whose names are there once tell where each section begins, and its
  neighbours in the object file tell which of several equally named symbols it is.

Formats: ELF-64 and x86-64 psABI, table "Relocation Types"; ``.klp.rela`` and ``.klp.sym`` as the
kernel's Documentation/livepatch/module-elf-format.rst.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_SHN_RESERVED = 0xFF00
_WORD = (1 << 64) - 1
_STT_SECTION = 3
_SHT_SYMTAB = 2
_SHT_RELA = 4
_SHF_ALLOC = 2
_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.(.+),(\d+)$")
_KLP_SECTION = re.compile(r"\.klp\.rela\.([^.]+)\.(.+)$")
_COMPILER_NUMBER = re.compile(r"\.\d+\b")

_SIZES = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
"""Bytes of R_X86_64_64, PC32, PLT32, 32, 32S, PC64."""
_RELATIVE = frozenset((2, 4, 24))
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


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of an ELF file."""

    name: str
    kind: int
    is_global: bool
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """An entry of a RELA section."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(slots=True)
class Elf:
    """As much of a relocatable ELF-64 file as is needed here."""

    names: list[str] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    relocations: list[Relocation] = field(default_factory=list)
    livepatch: list[Relocation] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    """The object that each entry of `livepatch` waits for."""

    @classmethod
    def read(cls, data: bytes) -> Elf:
        """Read a file."""
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count, strings = struct.unpack_from("<HHH", data, 58)
        heads = [struct.unpack_from("<IIQQQQIIQQ", data, at + n * size) for n in range(count or 0)]
        if not count:
            first = struct.unpack_from("<IIQQQQIIQQ", data, at)
            heads = [
                struct.unpack_from("<IIQQQQIIQQ", data, at + n * size) for n in range(first[5])
            ]
            strings = first[6] if strings == 0xFFFF else strings
        elf = cls()
        text = _Strings(data, heads[strings][4])
        elf.names = [text.at(head[0]) for head in heads]
        elf.flags = [head[2] for head in heads]
        elf.sizes = [head[5] for head in heads]
        for head in heads:
            if head[1] == _SHT_SYMTAB:
                elf._read_symbols(data, head[4], head[5], _Strings(data, heads[head[6]][4]))
        for number, head in enumerate(heads):
            if head[1] == _SHT_RELA and elf.flags[head[7]] & _SHF_ALLOC:
                elf._read_relocations(data, head[4], head[5], head[7], elf.names[number])
        return elf

    def _read_symbols(self, data: bytes, at: int, size: int, names: _Strings) -> None:
        for name, info, _, section, value, length in struct.iter_unpack(
            "<IBBHQQ", data[at : at + size]
        ):
            self.symbols.append(
                Symbol(names.at(name), info & 15, info >> 4 != 0, section, value, length)
            )

    def _read_relocations(self, data: bytes, at: int, size: int, target: int, name: str) -> None:
        klp = _KLP_SECTION.match(name)
        for offset, info, addend in struct.iter_unpack("<QQq", data[at : at + size]):
            entry = Relocation(target, offset, info & 0xFFFFFFFF, info >> 32, addend)
            if klp:
                self.livepatch.append(entry)
                self.owners.append(klp[1])
            else:
                self.relocations.append(entry)

    def containing(self, section: int, offset: int) -> Symbol | None:
        """The function or variable that holds a place."""
        best = None
        for symbol in self.symbols:
            if symbol.section == section and symbol.kind in (1, 2):
                inside = symbol.value <= offset < symbol.value + max(symbol.size, 1)
                if inside and (best is None or symbol.is_global):
                    best = symbol
        return best


class _Strings:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def at(self, offset: int) -> str:
        start = self._at + offset
        return self._data[start : self._data.index(b"\0", start)].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Entry:
    """A symbol of the running kernel."""

    address: int
    is_global: bool


class Running:
    """The symbols of one running object, in kallsyms order.

    Args:
        entries: name and entry, in order.
    """

    def __init__(self, entries: Iterable[tuple[str, Entry]]) -> None:
        self._by_name: dict[str, list[Entry]] = defaultdict(list)
        self._names_at: dict[int, set[str]] = defaultdict(set)
        for name, entry in entries:
            self._by_name[name].append(entry)
            self._names_at[entry.address].add(name)

    def named(self, name: str) -> Sequence[Entry]:
        """The entries of a name."""
        return self._by_name.get(name, ())

    def names_at(self, address: int) -> set[str]:
        """The names at an address."""
        return self._names_at.get(address, set())


def running_kernel(kallsyms: str) -> Running:
    """vmlinux, from the text of ``/proc/kallsyms``: an upper case letter is a global symbol."""

    def entries() -> Iterator[tuple[str, Entry]]:
        for line in kallsyms.splitlines():
            words = line.split()
            if len(words) == 3:
                yield words[2], Entry(int(words[0], 16), words[1].isupper())

    return Running(entries())


def running_module(file: bytes, sections: Mapping[str, int]) -> Running:
    """A loaded module: its file's symbols, at the places of its sections.

    The kernel keeps the order of the file (kernel/module/kallsyms.c, ``add_kallsyms``).
    """
    elf = Elf.read(file)

    def entries() -> Iterator[tuple[str, Entry]]:
        for symbol in elf.symbols:
            if 0 < symbol.section < _SHN_RESERVED and symbol.name:
                base = sections.get(elf.names[symbol.section])
                if base is not None:
                    yield symbol.name, Entry(base + symbol.value, symbol.is_global)

    return Running(entries())


class Unit:
    """A translation unit in the running kernel: where each of its symbols is.

    Args:
        plain: the unpatched object file, compiled as the distribution did.
        patched: the patched one, with a section per function and variable.
        running: the object that it is linked into.
        kernel: vmlinux.
        others: other objects that are loaded.
    """

    def __init__(
        self,
        plain: Elf,
        patched: Elf,
        running: Running,
        kernel: Running,
        others: Iterable[Running] = (),
    ) -> None:
        self.patched = patched
        self._plain = plain
        self._running = running
        self._kernel = kernel
        self._others = tuple(others)
        self._bases: dict[int, int | None] = {}
        self._at = {(each.section, each.offset): each for each in patched.relocations}

    def relocation(self, function: str, offset: int) -> Relocation | None:
        """The patched object's relocation at an offset of a function."""
        for symbol in self.patched.symbols:
            if symbol.name == function and symbol.kind == 2 and symbol.section:
                return self._at.get((symbol.section, symbol.value + offset))
        return None

    def beside(self, table: str, function: str, offset: int, distance: int) -> Relocation | None:
        """The relocation that follows, by `distance` bytes, the one of a table that means a place
        in a function (``__jump_table``: code, target, key)."""
        found = None
        for each in self.patched.relocations:
            if self.patched.names[each.section] != table:
                continue
            if self.place(each) == (function, offset):
                candidate = self._at.get((each.section, each.offset + distance))
                found = candidate or found
        return found

    def place(self, relocation: Relocation) -> tuple[str, int] | None:
        """A function and an offset in it, if that is what a relocation means."""
        return place_in(self.patched, relocation)

    def target(self, relocation: Relocation) -> set[int]:
        """The addresses that a relocation may mean, its addend included; none if nobody knows."""
        symbol = self.patched.symbols[relocation.symbol]
        if symbol.kind == _STT_SECTION:
            symbol_in, rest = self._of_section(symbol.section, relocation)
            if symbol_in is None:
                return set()
            return {address + rest for address in self.addresses(symbol_in)}
        return {address + relocation.addend for address in self.addresses(symbol)}

    def _of_section(self, section: int, relocation: Relocation) -> tuple[Symbol | None, int]:
        inside = [s for s in self.patched.symbols if s.section == section and s.kind in (1, 2)]
        if len(inside) == 1:
            return inside[0], relocation.addend - inside[0].value
        near = relocation.addend + (4 if relocation.kind in _RELATIVE else 0)
        found = self.patched.containing(section, near)
        return (found, relocation.addend - found.value) if found else (None, 0)

    def addresses(self, symbol: Symbol) -> set[int]:
        """Where a symbol of the patched object is in the running kernel."""
        if symbol.section == 0 or symbol.is_global:
            return self._global(symbol.name)
        return self._local(symbol)

    def _global(self, name: str) -> set[int]:
        for running in (self._running, self._kernel, *self._others):
            entries = running.named(name)
            found = {entry.address for entry in entries if entry.is_global}
            if found:
                return found
        # What the linker made of a global symbol is local now and then (hidden visibility).
        return {entry.address for entry in self._running.named(name)} if self._once(name) else set()

    def _once(self, name: str) -> bool:
        return len(self._running.named(name)) == 1

    def _local(self, symbol: Symbol) -> set[int]:
        twins = self._twins(symbol)
        if len(twins) != 1:
            return set()
        base = self._base(twins[0].section)
        if base is None:
            entries = self._running.named(twins[0].name)
            return {entries[0].address} if len(entries) == 1 else set()
        address = base + twins[0].value
        return {address} if twins[0].name in self._running.names_at(address) else set()

    def _twins(self, symbol: Symbol) -> list[Symbol]:
        """The unpatched object's symbols that can be this one; gcc numbers static locals anew."""
        locals_ = [s for s in self._plain.symbols if s.section and not s.is_global]
        same = [s for s in locals_ if s.name == symbol.name and s.kind == symbol.kind]
        stem = _stem(symbol.name)
        alike = [s for s in locals_ if _stem(s.name) == stem and s.kind == symbol.kind]
        if stem == symbol.name and same:
            return same
        if len(alike) > 1:
            alike = [s for s in alike if s.size == symbol.size]
        return alike

    def _base(self, section: int) -> int | None:
        """Where a section of the unpatched object begins in the running object."""
        if section not in self._bases:
            self._bases[section] = self._find_base(section)
        return self._bases[section]

    def _find_base(self, section: int) -> int | None:
        inside = [s for s in self._plain.symbols if s.section == section and s.kind in (1, 2)]
        sure: Counter[int] = Counter()
        votes: Counter[int] = Counter()
        for symbol in inside:
            entries = self._running.named(symbol.name)
            if len(entries) == 1:
                sure[entries[0].address - symbol.value] += 1
            votes.update({entry.address - symbol.value for entry in entries})
        for counted in (sure, votes):
            best = counted.most_common(2)
            if best and (len(best) == 1 or best[0][1] > best[1][1]):
                return best[0][0]
        return None


def _stem(name: str) -> str:
    return _COMPILER_NUMBER.sub("", name)


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


class Module:
    """A live patch module, read for the oracle.

    Args:
        data: the file.
    """

    def __init__(self, data: bytes) -> None:
        self.elf = Elf.read(data)
        self._rewritten = self._rewritten_places()

    def places(self) -> list[tuple[str, int, int]]:
        """What is to be read from memory: section, offset, bytes. Sorted tables are read whole."""
        return [
            (name, 0, self.elf.sizes[each.section])
            if name in _SORTED
            else (name, each.offset, _SIZES.get(each.kind, 8))
            for each in self.elf.livepatch
            for name in (self.elf.names[each.section],)
        ]

    def judge(
        self,
        values: Sequence[str],
        sections: Mapping[str, int],
        objects: Mapping[str, Running],
        units: Iterable[Unit],
    ) -> list[Verdict]:
        """Judge every relocation.

        Args:
            values: what was read at :meth:`places`, hexadecimal.
            sections: where the module's sections are.
            objects: the loaded objects that the module speaks of, vmlinux included.
            units: the units of the fix.
        """
        known = list(units)
        return [
            self._judge(number, value, sections, objects, known)
            for number, value in enumerate(values)
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
        if (relocation.section, relocation.offset) in self._rewritten:
            actual = stated
            right = Check.REWRITTEN
        else:
            right = Check.RIGHT
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
        if relocation.kind in _RELATIVE:
            actual += base + relocation.offset
        return actual & _WORD

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
                return (base + within + key) & ~bits & _WORD
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
            theirs = self._counterpart(relocation, unit)
            if theirs is not None:
                found |= unit.target(theirs)
        if not found and self._is_glue(relocation):
            symbol = _KLP_SYMBOL.match(self.elf.symbols[relocation.symbol].name)
            entries = objects["vmlinux"].named(symbol[2]) if symbol else ()
            return {each.address + relocation.addend for each in entries if len(entries) == 1}
        return found

    def _counterpart(self, relocation: Relocation, unit: Unit) -> Relocation | None:
        """The same relocation in the patched object file."""
        holder = self.elf.containing(relocation.section, relocation.offset)
        if holder is not None and holder.kind == 2:
            return unit.relocation(holder.name, relocation.offset - holder.value)
        table = self.elf.names[relocation.section]
        for each in self.elf.relocations:
            distance = relocation.offset - each.offset
            if each.section == relocation.section and 0 < distance <= 8:
                place = place_in(self.elf, each)
                if place is not None:
                    theirs = unit.beside(table, *place, distance)
                    if theirs is not None:
                        return theirs
        return None

    def _is_glue(self, relocation: Relocation) -> bool:
        holder = self.elf.containing(relocation.section, relocation.offset)
        return holder is not None and holder.name.startswith("lg_")

    def _rewritten_places(self) -> set[tuple[int, int]]:
        """The places in instructions that the kernel rewrites when it loads the module."""
        tables = (".static_call_sites", ".altinstructions", ".parainstructions")
        sites = set()
        for each in self.elf.relocations:
            if self.elf.names[each.section].startswith(tables):
                symbol = self.elf.symbols[each.symbol]
                sites.add((symbol.section, symbol.value + each.addend))
        reach = range(16)
        return {
            (each.section, each.offset)
            for each in self.elf.livepatch
            if any((each.section, each.offset - back) in sites for back in reach)
        }


def place_in(elf: Elf, relocation: Relocation) -> tuple[str, int] | None:
    """The function and the offset in it that a relocation of a table means."""
    symbol = elf.symbols[relocation.symbol]
    if symbol.section == 0 or symbol.section >= _SHN_RESERVED:
        return None
    at = symbol.value + relocation.addend
    holder = elf.containing(symbol.section, at)
    if holder is None or holder.kind != 2:
        return None
    return holder.name, at - holder.value


def _hex(addresses: Iterable[int]) -> str:
    return " or ".join(f"{each:#x}" for each in sorted(addresses))
