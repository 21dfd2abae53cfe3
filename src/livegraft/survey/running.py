# SPDX-License-Identifier: GPL-2.0-or-later
"""Where symbols are in the running kernel, and those of a unit among them.

A global symbol is the global one of its name in the running object, else in the kernel. A local one
lies where the unpatched object file puts it: its sections lie in the running object in one piece,
so the symbols whose names are there once tell where each begins, and its neighbours in the object
file tell which of several equally named symbols it is. Where no neighbour tells, the running code
does: the same function of the unpatched object file refers to it, at a place that is read from
memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from livegraft.survey.objectfile import RESERVED, Elf, Relocation, Symbol, place_in

RELATIVE = frozenset((2, 4, 24))
"""R_X86_64_PC32, PLT32, PC64: relative to their own place."""

_ABSOLUTE = frozenset((10, 11))
"""R_X86_64_32, 32S."""

FUNCTION = 2
"""``STT_FUNC``."""

_STT_SECTION = 3
WORD = (1 << 64) - 1
"""Addresses are numbers of 64 bits."""
_COMPILER_NUMBER = re.compile(r"\.\d+\b")


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


PER_CPU = ".data..percpu"
"""Not among the sections in sysfs: the kernel puts it elsewhere (kernel/module/main.c,
``layout_and_allocate``)."""


def per_cpu_base(file: bytes, kallsyms: str) -> int | None:
    """Where a loaded module's per-CPU section is, as one of its symbols tells; None if none does.

    Args:
        file: the module.
        kallsyms: its lines of ``/proc/kallsyms``.
    """
    places: dict[str, list[int]] = {}
    for line in kallsyms.splitlines():
        address, _, name, *_ = line.split()
        places.setdefault(name, []).append(int(address, 16))
    elf = Elf.read(file)
    for symbol in elf.symbols:
        is_there = 0 < symbol.section < RESERVED and elf.names[symbol.section] == PER_CPU
        if is_there and len(found := places.get(symbol.name, [])) == 1:
            return found[0] - symbol.value
    return None


def running_module(file: bytes, sections: Mapping[str, int]) -> Running:
    """A loaded module: its file's symbols, at the places of its sections.

    The kernel keeps the order of the file (kernel/module/kallsyms.c, ``add_kallsyms``).
    """
    elf = Elf.read(file)

    def entries() -> Iterator[tuple[str, Entry]]:
        for symbol in elf.symbols:
            if 0 < symbol.section < RESERVED and symbol.name:
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
        read: bytes at an address of the running kernel, if that can be asked.
        whole: if `patched` was cut out of the source, the patched object of the whole unit. What
            the cut one only declares is that one's, or the unpatched one's if all of it was
            inlined.
    """

    def __init__(
        self,
        plain: Elf,
        patched: Elf,
        running: Running,
        kernel: Running,
        others: Iterable[Running] = (),
        whole: Elf | None = None,
        read: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self.patched = patched
        self._plain = plain
        self._running = running
        self._kernel = kernel
        self._others = tuple(others)
        self._whole = whole
        self._read = read
        self._bases: dict[int, int | None] = {}
        self._at = {(each.section, each.offset): each for each in patched.relocations}

    def relocation(self, function: str, offset: int) -> Relocation | None:
        """The patched object's relocation at an offset of a function."""
        for symbol in self.patched.symbols:
            if symbol.name == function and symbol.kind == FUNCTION and symbol.section:
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

    def target(self, relocation: Relocation, user: str) -> set[int]:
        """The addresses that a relocation may mean, its addend included; none if nobody knows.

        Args:
            relocation: of the patched object.
            user: the function that it belongs to.
        """
        symbol, rest = _meant(self.patched, relocation)
        return {address + rest for address in self._addresses(symbol, user)} if symbol else set()

    def _addresses(self, symbol: Symbol, user: str) -> set[int]:
        """Where a symbol of the patched object is in the running kernel."""
        if symbol.section == 0 and (own := self._declared(symbol.name)) is not None:
            return self._local(*own, user)
        if symbol.section == 0 or symbol.is_global:
            return self._global(symbol.name)
        return self._local(self.patched, symbol, user)

    def _declared(self, name: str) -> tuple[Elf, Symbol] | None:
        """The unit's local symbol that a declaration of the cut file stands for."""
        if self._whole is None:
            return None
        for elf in (self._whole, self._plain):
            found = [each for each in elf.symbols if each.name == name]
            if found:
                local = [each for each in found if each.section and not each.is_global]
                return (elf, local[0]) if len(local) == 1 else None
        return None

    def replaced(self, name: str) -> set[int]:
        """Where a function of the unpatched object is in the running kernel."""
        found: set[int] = set()
        for symbol in self._plain.symbols:
            if symbol.name == name and symbol.kind == FUNCTION and symbol.section:
                found |= self._global(name) if symbol.is_global else self._by_section(symbol)
        return found

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

    def _local(self, elf: Elf, symbol: Symbol, user: str) -> set[int]:
        twins = self._twins(symbol)
        if len(twins) > 1:
            twins = self._alike(self._plain, user, elf.content(symbol), twins)
            # Of those that hold the same at first, the order in which the function uses them tells.
            here = self._alike(elf, user, elf.content(symbol), self._twins(symbol, elf))
            if symbol not in here or len(here) != len(twins):
                return set()
            twins = [twins[here.index(symbol)]]
        return self._placed(twins[0]) if twins else set()

    @staticmethod
    def _alike(elf: Elf, user: str, content: bytes, among: Sequence[Symbol]) -> list[Symbol]:
        """Those of some variables that a function of an object uses and that hold this at first, in
        the order of their first use."""
        places = [s for s in elf.symbols if s.name == user and s.kind == FUNCTION and s.section]
        used = (
            _meant(elf, each)[0]
            for place in places
            for each in sorted(elf.relocations, key=lambda each: each.offset)
            if each.section == place.section and 0 <= each.offset - place.value < place.size
        )
        return [s for s in dict.fromkeys(used) if s and s in among and elf.content(s) == content]

    def _placed(self, symbol: Symbol) -> set[int]:
        """Where a local symbol of the unpatched object is."""
        return self._by_section(symbol) or self._by_code(symbol)

    def _by_code(self, symbol: Symbol) -> set[int]:
        """Where a running function refers to, that refers to the symbol in the object file."""
        for each in self._plain.relocations if self._read is not None else ():
            if self._plain.symbols[each.symbol].section != symbol.section:
                continue
            meant, rest = _meant(self._plain, each)
            holder = self._plain.containing(each.section, each.offset)
            is_code = holder is not None and holder.kind == FUNCTION
            if meant != symbol or not is_code or each.kind not in RELATIVE | _ABSOLUTE:
                continue
            assert holder is not None and self._read is not None
            starts = self._global(holder.name) if holder.is_global else self._by_section(holder)
            for start in starts:
                place = start + each.offset - holder.value
                value = int.from_bytes(self._read(place, 4), "little", signed=True) - rest
                address = (value + (place if each.kind in RELATIVE else 0)) & WORD
                # The kernel may have rewritten the place.
                if symbol.name in self._running.names_at(address):
                    return {address}
        return set()

    def _by_section(self, symbol: Symbol) -> set[int]:
        """By the place of its section, or its name, if that is there once."""
        base = self._base(symbol.section)
        if base is None:
            entries = self._running.named(symbol.name)
            return {entries[0].address} if len(entries) == 1 else set()
        address = base + symbol.value
        return {address} if symbol.name in self._running.names_at(address) else set()

    def _twins(self, symbol: Symbol, elf: Elf | None = None) -> list[Symbol]:
        """The unpatched object's symbols that can be this one (or another object's); gcc numbers
        static locals anew."""
        locals_ = [s for s in (elf or self._plain).symbols if s.section and not s.is_global]
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


def _meant(elf: Elf, relocation: Relocation) -> tuple[Symbol | None, int]:
    """The symbol that a relocation means, and what is to be added to its address."""
    symbol = elf.symbols[relocation.symbol]
    if symbol.kind != _STT_SECTION:
        return symbol, relocation.addend
    inside = [s for s in elf.symbols if s.section == symbol.section and s.kind in (1, 2)]
    if len(inside) == 1:
        return inside[0], relocation.addend - inside[0].value
    near = relocation.addend + (4 if relocation.kind in RELATIVE else 0)
    # The end of a variable is its own, if nothing begins there.
    found = elf.containing(symbol.section, near) or elf.containing(symbol.section, near - 1)
    return (found, relocation.addend - found.value) if found else (None, 0)


def _stem(name: str) -> str:
    return _COMPILER_NUMBER.sub("", name)
