# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled unit as functions, variables and constants that refer to one another.

The object must be raw compiler output with a section per function and variable where the source
does not name the section. An :class:`Entity` is the range of one symbol; strings and constants,
which have no symbols that count, are entities of their own; entries of the kernel's tables
(``__bug_table``...) belong to the function that they speak of.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.header import SectionFlag, SectionType
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType
from livegraft.errors import ElfError

SUFFIX = re.compile(r"(\.(?:constprop|isra|part|cold|localalias|lto_priv)(?:\.\d+)?|\.\d+)+$")
"""What GCC appends: clones and their numbers, numbers of static locals."""

ALWAYS_NEW = re.compile(
    r"^(__func__|__FUNCTION__|__PRETTY_FUNCTION__|__warned|__already_done|__print_once|___done"
    r"|__key|_rs|CSWTCH|_entry|_entry_ptr|descriptor|__ddebug|__UNIQUE_ID_\w+|\.L\w+)(\.\d+)*$"
)
"""Variables that stand for a place in the source, not for state that has to live on."""


class Kind(Enum):
    """What an entity is."""

    FUNCTION = auto()
    DATA = auto()
    STRING = auto()
    CONSTANT = auto()
    ANONYMOUS = auto()


@dataclass(frozen=True, slots=True)
class Use:
    """A relocation, with what it means.

    Args:
        offset: bytes into the entity (or table entry) that it changes.
        type: its relocation type.
        target: the entity that it refers to, or the name of an undefined symbol.
        delta: ``S + A`` relative to the target's symbol, as the addend has to be.
        position: where in the target it points, the processor's view.
    """

    offset: int
    type: int
    target: Entity | str
    delta: int
    position: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a table, and where in its function it points."""

    table: str
    place: int
    data: bytes
    uses: tuple[Use, ...]


@dataclass(slots=True, eq=False)
class Entity:
    """A function, a variable, a string or a constant.

    Args:
        name: its symbol's name; empty if it has none.
        kind: what it is.
        section: its section's number.
        start: where its bytes begin (call padding in front included).
        value: where its symbol points.
        end: behind its last byte.
        symbol: its symbol; None for strings and constants.
        uses: its relocations, by offset from ``start``.
        entries: table entries that belong to it.
        parent: the function whose cold part it is.
        aliases: other symbols at the same place.
    """

    name: str
    kind: Kind
    section: int
    start: int
    value: int
    end: int
    symbol: Symbol | None = None
    uses: list[Use] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    parent: Entity | None = None
    aliases: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The name without what the compiler appended."""
        return SUFFIX.sub("", self.name)

    @property
    def size(self) -> int:
        """Bytes from the symbol on."""
        return self.end - self.value

    @property
    def is_global(self) -> bool:
        """Whether other units can refer to it."""
        return self.symbol is not None and self.symbol.binding != Binding.LOCAL

    @property
    def is_always_new(self) -> bool:
        """Whether a payload brings its own copy."""
        return self.kind is Kind.DATA and bool(ALWAYS_NEW.match(self.name))


class UnitView:
    """An object, taken apart.

    Args:
        obj: the object.
        subject: what to call it in errors.

    Raises:
        ElfError: another machine, an unknown relocation type, a table of an unknown layout.
    """

    def __init__(self, obj: ElfObject, subject: str) -> None:
        self.obj = obj
        self.subject = subject
        self.entities: list[Entity] = []
        self.of_symbol: dict[int, Entity] = {}
        self._in_section: dict[int, list[Entity]] = {}
        self._starts: dict[int, list[int]] = {}
        self._lazy: dict[tuple[int, int], Entity] = {}
        self._ends: dict[Entity, dict[int, int]] = {}
        self._find_entities()
        self._find_uses()
        self._find_entries()
        self._find_parents()

    def named(self) -> Iterator[Entity]:
        """Functions and variables."""
        return (each for each in self.entities if each.kind in (Kind.FUNCTION, Kind.DATA))

    def section(self, entity: Entity) -> Section:
        """The section that an entity lies in."""
        return self.obj.sections[entity.section]

    def code(self, entity: Entity) -> bytes:
        """An entity's bytes, from its start; empty for NOBITS."""
        return self.section(entity).data[entity.start : entity.end]

    def is_alone(self, entity: Entity) -> bool:
        """Whether it has its section for itself."""
        return len(self._in_section.get(entity.section, ())) == 1

    # -- entities -------------------------------------------------------------------------------

    def _find_entities(self) -> None:
        by_section: dict[int, list[tuple[int, Symbol]]] = {}
        for number, symbol in enumerate(self.obj.symbols):
            if symbol.in_section and symbol.type in (SymbolType.OBJECT, SymbolType.FUNC):
                by_section.setdefault(symbol.section, []).append((number, symbol))
        for index, listed in by_section.items():
            section = self.obj.sections[index]
            if not section.is_alloc or section.name in arch.TABLES:
                continue
            self._add_symbols(index, section, listed)
        for index, found in self._in_section.items():
            self._starts[index] = [each.start for each in found]

    def _add_symbols(self, index: int, section: Section, listed: list[tuple[int, Symbol]]) -> None:
        kind = Kind.FUNCTION if section.is_code else Kind.DATA
        order = sorted(listed, key=lambda pair: (pair[1].value, -pair[1].size, -pair[1].binding))
        found = self._in_section.setdefault(index, [])
        padding = order[0][1].value if section.is_code else 0
        for number, symbol in order:
            last = found[-1] if found else None
            if last is not None and symbol.value < last.end and symbol.value != last.value:
                raise ElfError(self.subject, f"{symbol.name} overlaps {last.name}")
            if last is not None and symbol.value == last.value and last.size:
                last.aliases.append(symbol.name)
                self.of_symbol[number] = last
                continue
            start = (
                max(symbol.value - padding, last.end if last else 0) if padding else symbol.value
            )
            end = symbol.value + symbol.size
            if end > section.size:
                raise ElfError(self.subject, f"{symbol.name} reaches beyond {section.name}")
            entity = Entity(symbol.name, kind, index, start, symbol.value, end, symbol)
            found.append(entity)
            self.entities.append(entity)
            self.of_symbol[number] = entity

    def locate(self, index: int, position: int) -> Entity:
        """The entity at a place of a section; strings and constants are found as they are needed.

        Raises:
            ElfError: nothing is there.
        """
        section = self.obj.sections[index]
        found = self._in_section.get(index)
        if found:
            at = max(bisect_right(self._starts[index], position) - 1, 0)
            return found[at]
        if section.is_strings:
            start = section.data.rfind(b"\0", 0, max(position, 0)) + 1
            end = section.data.find(b"\0", start) + 1
            return self._anonymous(index, Kind.STRING, start, end or section.size)
        if section.flags & SectionFlag.MERGE and section.entry_size:
            start = position - position % section.entry_size
            return self._anonymous(index, Kind.CONSTANT, start, start + section.entry_size)
        return self._anonymous(index, Kind.ANONYMOUS, 0, section.size)

    def _anonymous(self, index: int, kind: Kind, start: int, end: int) -> Entity:
        if not 0 <= start < max(end, 1) <= max(self.obj.sections[index].size, 1):
            name = self.obj.sections[index].name
            raise ElfError(self.subject, f"a relocation points outside {name}")
        key = (index, start)
        if key not in self._lazy:
            entity = self._lazy[key] = Entity("", kind, index, start, start, end)
            self.entities.append(entity)
            if kind is Kind.ANONYMOUS:
                self._starts.setdefault(index, [])
        return self._lazy[key]

    # -- relocations ----------------------------------------------------------------------------

    def _find_uses(self) -> None:
        for index, section in enumerate(self.obj.sections):
            if not section.is_alloc or section.name in arch.TABLES or _is_ignored(section.name):
                continue
            if section.name in (arch.REPLACEMENTS, arch.SNIPPETS):
                continue  # cut into segments when their entries are known
            for use_at, use in self._uses(index, section):
                if section.is_strings:
                    raise ElfError(self.subject, f"{section.name}: strings with relocations")
                owner = self.locate(index, use_at)
                if not owner.start <= use_at < owner.end:
                    raise ElfError(self.subject, f"{section.name}+{use_at:#x}: belongs to nothing")
                owner.uses.append(_moved(use, use_at - owner.start))
            found = self._in_section.get(index, ())
            if section.is_code and len(found) > 1:
                for owner in found:
                    self._add_hidden_branches(owner)

    def _uses(self, index: int, section: Section) -> Iterator[tuple[int, Use]]:
        """All relocations of a section, in order, with their places in the section."""
        entries = section.relocations
        for offset, kind, number, addend in entries[
            entries["offset"].argsort(kind="stable")
        ].tolist():
            size = arch.RELOCATION_SIZES.get(kind)
            if size is None:
                raise ElfError(self.subject, f"{section.name}: unknown relocation type {kind}")
            if offset + size > section.size:
                raise ElfError(self.subject, f"{section.name}: relocation outside of it")
            yield offset, self._use(index, section, offset, kind, number, addend)

    def _use(
        self, index: int, section: Section, offset: int, kind: int, number: int, addend: int
    ) -> Use:
        if section.is_code and kind == arch.PC_RELATIVE_32 and arch.is_branch(section.data, offset):
            kind = arch.BRANCH
        symbol = self.obj.symbols[number]
        if not symbol.in_section:
            if not symbol.is_undefined:
                raise ElfError(self.subject, f"{symbol.name}: absolute or common symbol")
            return Use(offset, kind, symbol.name, addend, addend)
        known = self.of_symbol.get(number)
        place = symbol.value + addend
        if known is not None:
            return Use(offset, kind, known, place - known.value, place - known.value)
        correction = 0
        if section.is_code and kind in arch.PC_RELATIVE:
            correction = self._correction(index, offset, kind, symbol.section)
        target = self.locate(symbol.section, place + correction)
        return Use(offset, kind, target, place - target.value, place + correction - target.value)

    def _correction(self, index: int, offset: int, kind: int, target: int) -> int:
        """What the processor adds to a PC-relative field: the distance to the instruction's end."""
        found = self._in_section.get(target, ())
        if kind == arch.BRANCH or len(found) == 1:
            return 4
        owner = self.locate(index, offset)
        if owner not in self._ends:
            code = self.section(owner).data[owner.value : owner.end]
            self._ends[owner] = {
                at: each.offset + each.size
                for each in arch.instructions(code, owner.value)
                for at in range(each.offset, each.offset + each.size)
            }
        end = self._ends[owner].get(offset)
        if end is None:
            raise ElfError(self.subject, f"{owner.name}: cannot be decoded at {offset:#x}")
        return end - offset

    def _add_hidden_branches(self, owner: Entity) -> None:
        """Direct branches to a neighbour in the same section have no relocation: give them one."""
        data = self.section(owner).data
        covered = {use.offset + owner.start for use in owner.uses}
        for each in arch.instructions(data[owner.value : owner.end], owner.value):
            target = arch.branch_target(each)
            short = each.size < 5
            field_at = each.offset + each.size - (1 if short else 4)
            if target is None or owner.start <= target < owner.end or field_at in covered:
                continue
            other = self.locate(owner.section, target)
            if not other.start <= target < other.end:
                raise ElfError(self.subject, f"{owner.name}: jumps to {target:#x}, not a function")
            kind, length = (arch.SHORT_BRANCH, 1) if short else (arch.BRANCH, 4)
            delta = target - other.value
            owner.uses.append(Use(field_at - owner.start, kind, other, delta - length, delta))
        owner.uses.sort(key=lambda use: use.offset)

    # -- tables ---------------------------------------------------------------------------------

    def _find_entries(self) -> None:
        for index, section in enumerate(self.obj.sections):
            table = arch.TABLES.get(section.name)
            if table is not None and section.size:
                self._add_entries(index, section, table)

    def _add_entries(self, index: int, section: Section, table: arch.Table) -> None:
        uses = list(self._uses(index, section))
        size = table.size
        if not size and uses:
            count, rest = divmod(len(uses), table.relocations)
            size = section.size // count if count and not rest else 0
        if not size or section.size % size:
            raise ElfError(self.subject, f"{section.name}: entries of an unknown layout")
        grouped: dict[int, list[Use]] = {}
        for offset, use in uses:
            grouped.setdefault(offset // size, []).append(_moved(use, offset % size))
        for number in range(section.size // size):
            parts = grouped.get(number)
            if not parts or not isinstance(parts[0].target, Entity):
                raise ElfError(self.subject, f"{section.name}: entry {number} names no function")
            data = section.data[number * size : (number + 1) * size]
            if table.name == ".altinstructions":
                parts[1] = self._segment(parts[1], data[arch.REPLACEMENT_LENGTH_AT[size]])
            owner = parts[0].target
            owner.entries.append(Entry(table.name, parts[0].delta, data, tuple(parts)))

    def _segment(self, use: Use, length: int) -> Use:
        """A replacement (or a snippet that one jumps to) as an entity of its own."""
        whole = use.target
        assert isinstance(whole, Entity)
        start = use.delta + whole.value
        entity = self._slice(whole.section, start, start + length)
        return Use(use.offset, use.type, entity, 0, 0)

    def _slice(self, index: int, start: int, end: int) -> Entity:
        key = (index, -1 - start)
        if key in self._lazy:
            return self._lazy[key]
        section = self.obj.sections[index]
        entity = self._lazy[key] = Entity("", Kind.ANONYMOUS, index, start, start, end)
        self.entities.append(entity)
        for at, use in self._uses(index, section):
            if start <= at < end:
                target = use.target
                if isinstance(target, Entity) and self.section(target).name == arch.SNIPPETS:
                    first = use.position + target.value
                    snippet = self._slice(target.section, first, self._snippet_end(target, first))
                    use = Use(at, use.type, snippet, use.delta - use.position, 0)
                entity.uses.append(_moved(use, at - start))
        return entity

    def _snippet_end(self, whole: Entity, start: int) -> int:
        """A snippet ends with its unconditional jump back (``jmp %l[t_no]``)."""
        data = self.section(whole).data
        for each in arch.instructions(data[start:], start):
            if each.mnemonic == "jmp":
                return each.offset + each.size
        raise ElfError(self.subject, f"{arch.SNIPPETS}+{start:#x}: does not jump back")

    # -- cold parts -----------------------------------------------------------------------------

    def _find_parents(self) -> None:
        functions = {e.name: e for e in self.entities if e.kind is Kind.FUNCTION}
        for name, entity in functions.items():
            if ".cold" in name:
                parent = functions.get(name[: name.rindex(".cold")])
                if parent is None:
                    raise ElfError(self.subject, f"{name}: has no parent function")
                entity.parent = parent


def _moved(use: Use, offset: int) -> Use:
    return Use(offset, use.type, use.target, use.delta, use.position)


def _is_ignored(name: str) -> bool:
    return name.startswith(arch.IGNORED)


def is_initial(name: str) -> bool:
    """Whether a section holds code or data of the boot or of a module's loading only."""
    return name.startswith(arch.INITIAL) or name in (".init", ".exit")


def is_data_section(section: Section) -> bool:
    """Whether it holds variables of the ordinary kind."""
    return bool(section.flags & SectionFlag.ALLOC) and section.type in (
        SectionType.PROGBITS,
        SectionType.NOBITS,
    )
