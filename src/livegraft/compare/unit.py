# SPDX-License-Identifier: GPL-2.0-or-later
"""A compiled unit as functions, variables and constants that refer to one another.

The object must be raw compiler output with a section per function and variable where the source
does not name the section. Relocations are kept in arrays, ordered by the entity that they change;
what each one refers to is an entity and a distance, however the assembler wrote it: by symbol, by
section, or, between functions of one section, not at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise, repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from livegraft.compare import names
from livegraft.compare.decoded import Decoded
from livegraft.compare.division import divide, snippets, with_snippets
from livegraft.compare.entity import Entity, Kind, Oddity
from livegraft.elf.arch.architecture import Instruction, Reference, Table, Undecodable
from livegraft.elf.arch.registry import architecture
from livegraft.elf.header import SHN_LORESERVE, SHN_XINDEX, SectionFlag
from livegraft.elf.object import RELOCATION, ElfObject, Section, SymbolType
from livegraft.elf.section_table import LARGEST_SECTION

Numbers = npt.NDArray[np.int64]

_SECTION_SHIFT = 40
"""A place is one number: the section's number above 40 bits of offset."""


class Use(NamedTuple):
    """A relocation, with what it means.

    Args:
        offset: bytes into the section that it changes.
        type: its relocation type.
        target: the entity that it refers to, or the name of an undefined symbol.
        delta: ``S + A`` relative to the target's symbol, as an addend has to be.
        by_name: whether the relocation names the target's symbol, not its section.
    """

    offset: int
    type: int
    target: Entity | str
    delta: int
    by_name: bool


class Unit:
    """An object, taken apart.

    Args:
        obj: the object.
        subject: what to call it.
        decoded: what was decoded of the other unit, which has mostly the same code.

    Raises:
        ElfError: it is of an architecture that is not known.
    """

    def __init__(self, obj: ElfObject, subject: str, decoded: Decoded | None = None) -> None:
        self.obj = obj
        self.subject = subject
        self.arch = architecture(obj.machine, obj.byte_order, subject)
        self.oddities: list[Oddity] = []
        self.externals: list[str] = []
        """Names of undefined symbols; a target of -1 - n is the n-th."""
        self.decoded = Decoded() if decoded is None else decoded
        self._instructions: dict[Entity, list[Instruction]] = {}
        self._is_snippet = np.array([self.arch.is_snippet(each.name) for each in obj.sections])
        self._divided = divide(obj, self.arch, self.oddities)
        self._read_symbols()
        self._read_relocations()
        self._find_positions()
        self._order_entities()
        self._connect()
        self._mask()
        self._find_families()

    # -- what others ask ------------------------------------------------------------------------

    def section(self, entity: Entity) -> Section:
        """The section that an entity lies in."""
        return self.obj.sections[entity.section]

    def functions(self) -> Iterator[Entity]:
        """All functions, cold parts included."""
        return iter(self._functions)

    def variables(self) -> Iterator[Entity]:
        """All variables and named constants."""
        return iter(self._variables)

    def span(self, entity: Entity) -> slice:
        """Where an entity's relocations are in the arrays."""
        return slice(self.first[entity.number], self.first[entity.number + 1])

    def uses(self, entity: Entity) -> Iterator[Use]:
        """The relocations of an entity, in order."""
        span = self.span(entity)
        columns = (self.offset, self.type, self.target, self.delta, self.by_name)
        for offset, kind, target, delta, by_name in zip(
            *(column[span].tolist() for column in columns), strict=True
        ):
            yield Use(offset, kind, self.target_of(target), delta, bool(by_name))

    def neighbours(self, entity: Entity) -> tuple[Entity | None, Entity | None]:
        """What lies in front of and behind an entity in its section."""
        found: list[Entity | None] = []
        for number in (entity.number - 1, entity.number + 1):
            each = self.entities[number] if 0 <= number < len(self.entities) else None
            found.append(each if each is not None and each.section == entity.section else None)
        return found[0], found[1]

    def target_of(self, number: int) -> Entity | str:
        """The entity or undefined symbol of a number in :attr:`target`."""
        return self.entities[number] if number >= 0 else self.externals[-1 - number]

    def masked(self, entity: Entity) -> bytes:
        """An entity's bytes from its symbol on, relocations blanked; zeros for NOBITS."""
        base = self._base.get(entity.section)
        if base is None:
            return bytes(entity.size)
        return self._masked[base + entity.value : base + entity.end]

    def all_masked(self, numbers: Numbers) -> list[bytes]:
        """The bytes of many entities, by their numbers, as :meth:`masked` gives them."""
        base = self._bases[self.sections[numbers]]
        first, end = (base + each[numbers] for each in (self.values, self.ends))
        masked = self._masked
        found = [masked[at:to] for at, to in zip(first.tolist(), end.tolist(), strict=True)]
        for position in np.flatnonzero(base < 0).tolist():
            found[position] = bytes(self.entities[int(numbers[position])].size)
        return found

    def instructions(self, entity: Entity) -> list[Instruction]:
        """The instructions of a function or snippet, by their offsets in the section.

        What cannot be decoded has none, and is noted as odd.
        """
        known = self._instructions.get(entity)
        if known is None:
            data = self.obj.sections[entity.section].data
            try:
                known = self.decoded.instructions(self.arch, data, entity.value, entity.end)
            except Undecodable as error:
                name = entity.name or self.section(entity).name
                self.oddities.append(Oddity("undecodable", name, str(error), entity))
                known = []
            self._instructions[entity] = known
        return known

    def _references(self, entity: Entity) -> list[Reference]:
        """The references out of a function or snippet that have no relocations."""
        listed = self.instructions(entity)
        data = self.obj.sections[entity.section].data
        if not listed:
            return []
        return self.decoded.references(self.arch, data, entity.value, entity.end, listed)

    def is_branch(self, use: Use, section: int) -> bool:
        """Whether a relocation is that of a direct call or jump."""
        found = self.obj.sections[section]
        return found.is_code and self.arch.is_branch(use.type, found.data, use.offset)

    # -- construction ---------------------------------------------------------------------------

    def _read_symbols(self) -> None:
        """Columns of the symbol table, and which symbols name an entity."""
        symbols = self.obj.symbols
        count = len(symbols)
        sections = np.fromiter(map(attrgetter("section"), symbols), dtype="i8", count=count)
        values = np.fromiter(map(attrgetter("value"), symbols), dtype="u8", count=count)
        values = values.astype("i8")
        is_inside = (sections > 0) & ((sections < SHN_LORESERVE) | (sections > SHN_XINDEX))
        self._symbol_section = np.where(is_inside, sections, 0)
        self._symbol_value = np.where(is_inside, values, 0)
        self._symbol_external = np.full(len(symbols), -1, dtype="i8")
        first = 0 if self.arch.may_lack_symbol else 1
        for number in np.flatnonzero(~is_inside)[first:].tolist():
            symbol = symbols[number]
            self._symbol_external[number] = len(self.externals)
            self.externals.append(symbol.name)
            if not symbol.is_undefined and symbol.type != SymbolType.FILE:
                text = "is an absolute or common symbol"
                self.oddities.append(Oddity("unknown-symbol", symbol.name, text))
        named = [each.symbol for listed in self._divided.values() for each in listed]
        self._symbol_named = np.zeros(len(symbols), dtype=bool)
        self._symbol_named[named] = True
        self._symbol_named[0] = False

    def _read_relocations(self) -> None:
        """All relocations, by section and offset."""
        parts: list[bytes] = []
        lengths = np.zeros(len(self.obj.sections), dtype="i8")
        for index, section in enumerate(self.obj.sections):
            is_divided = index in self._divided or self._is_snippet[index]
            if len(section.relocations) and is_divided:
                parts.append(section.relocations.tobytes())
                lengths[index] = len(section.relocations)
        # Faster than joining thousands of arrays of records.
        table = np.frombuffer(b"".join(parts), dtype=RELOCATION)
        section_of = np.repeat(np.arange(len(lengths), dtype="i8"), lengths)
        if self.arch.without_meaning:
            speaks = ~np.isin(table["type"], list(self.arch.without_meaning))
            table, section_of = table[speaks], section_of[speaks]
        place = (section_of << _SECTION_SHIFT) + table["offset"].astype("i8")
        order = place.argsort(kind="stable")
        self._place = place[order]
        self.type, self._symbol, self._addend = (
            table[each][order].astype("i8") for each in ("type", "symbol", "addend")
        )

    def _find_positions(self) -> None:
        """The place that each relocation means, where the processor would look."""
        section = self._symbol_section[self._symbol]
        value = self._symbol_value[self._symbol] + self._addend
        self._by_name = self._symbol_named[self._symbol]
        code = int(SectionFlag.EXECINSTR)
        is_code = np.array([each.flags & code != 0 for each in self.obj.sections], dtype=bool)
        own = self._place >> _SECTION_SHIFT
        correction = np.zeros(len(self.type), dtype="i8")
        for kind, distance in self.arch.pc_relative.items():
            correction[(self.type == kind) & is_code[own]] = distance
        self._list_entities()
        if self.arch.longest_immediate:
            self._find_ends(section, value, correction)
        self._value = value
        counted = {index: found for index, found in self._tables() if found.from_entry}
        for index, table in counted.items():
            rows = np.flatnonzero((own == index) & np.isin(self.type, list(table.from_entry)))
            entries = self._locate(self._place[rows])
            value[rows] -= self._place[rows] - self._starts[entries]
        offset = np.clip(value + correction, 0, (1 << _SECTION_SHIFT) - 1)
        self._target_place = np.where(section > 0, (section << _SECTION_SHIFT) + offset, -1)
        self._is_end = np.zeros(len(value), dtype=bool)
        for index, table in counted.items():
            if table.ends:
                self._settle_ends(index, table)

    def _tables(self) -> Iterator[tuple[int, Table]]:
        for index, listed in self._divided.items():
            if listed and listed[0].kind is Kind.ENTRY:
                table = self.arch.table_of(listed[0].name)
                if table is not None:
                    yield index, table

    def _settle_ends(self, index: int, table: Table) -> None:
        """What points behind a stretch of code means that code, not what follows.

        Of a stretch without length neither end means anything.
        """
        for entity in self._divided[index]:
            first = (index << _SECTION_SHIFT) + entity.start
            bounds = np.searchsorted(self._place, [first, first + entity.size])
            if bounds[1] - bounds[0] != table.fields:
                continue
            for end in (int(bounds[0]) + each for each in table.ends):
                if self._target_place[end] != self._target_place[end - 1]:
                    self._target_place[end] -= 1
                    self._is_end[end] = True
                    continue
                self._target_place[end - 1 : end + 1] = first
                self._value[end - 1 : end + 1] = entity.start
                self._by_name[end - 1 : end + 1] = False

    def _find_ends(self, section: Numbers, value: Numbers, correction: Numbers) -> None:
        """Where an immediate behind an operand would make the difference, decode."""
        counts = np.zeros(len(self.obj.sections), dtype="i8")
        counts[list(self._divided)] = list(map(len, self._divided.values()))
        manifold = self._is_snippet | (counts > 1)
        places = np.flatnonzero((correction != 0) & ~self._by_name & manifold[section])
        section = section[places]
        offset = np.clip((value + correction)[places], 0, LARGEST_SECTION)
        near = (section << _SECTION_SHIFT) + offset
        far = near + self.arch.longest_immediate
        differs = (self._locate(near) != self._locate(far)) | self._is_snippet[section]
        places = places[differs]
        owners = self._locate(self._place[places])
        columns = (places, self._place[places], self.type[places], owners)
        for number, place, kind, owner in zip(*(each.tolist() for each in columns), strict=True):
            correction[number] = self._distance_to_end(place, kind, owner)

    def _distance_to_end(self, place: int, kind: int, number: int) -> int:
        """From a field to the end of its instruction: what the processor adds to it.

        Args:
            number: of the entity that the field lies in, if there is one.
        """
        index, offset = place >> _SECTION_SHIFT, place & ((1 << _SECTION_SHIFT) - 1)
        section = self.obj.sections[index]
        usual = self.arch.pc_relative[kind]
        if self.arch.is_branch(kind, section.data, offset):
            return usual
        if self.arch.is_last is not None and self.arch.is_last(section.data, offset):
            return usual
        if index in self._divided:
            owner = self.entities[number]
        else:
            owner = Entity("", Kind.SNIPPET, index, 0, 0, section.size)
        listed = self.instructions(owner)
        found = bisect_right(listed, offset, key=lambda each: each.offset) - 1
        if found >= 0:
            return listed[found].end - offset
        return usual  # noted as odd: it could not be decoded

    def _order_entities(self) -> None:
        """All entities in the order of their places, and their numbers."""
        is_known = ~self._by_name & (self._target_place >= 0)
        targets = (self._target_place + self._is_end)[is_known]
        for index in with_snippets(self.obj, self.arch, self._divided, self._is_snippet):
            section, listed = self.obj.sections[index], self._divided.get(index, [])
            mine = targets[targets >> _SECTION_SHIFT == index] & ((1 << _SECTION_SHIFT) - 1)
            starts = set(mine.tolist())
            for entity in listed:
                starts.update(found.place for found in self._references(entity))
            start = listed.pop().start if listed else 0
            self._divided[index] = [*listed, *snippets(index, start, section.size, starts)]
        self._list_entities()
        for number, entity in enumerate(self.entities):
            entity.number = number
        self.values = self._column("value")
        """Where the symbol of each entity points, in its section."""
        self.ends = self._column("end")
        """Where each entity ends, in its section."""
        self.kinds = self._column("kind")
        """The :class:`Kind` of each entity."""
        self._functions = self._of_kind(Kind.FUNCTION)
        self._variables = self._of_kind(Kind.DATA)

    def _of_kind(self, kind: Kind) -> list[Entity]:
        return [self.entities[number] for number in np.flatnonzero(self.kinds == kind).tolist()]

    def _list_entities(self) -> None:
        order = sorted(self._divided)
        listed = [self._divided[index] for index in order]
        self.entities = list(chain.from_iterable(listed))
        self.sections = np.repeat(np.array(order, dtype="i8"), list(map(len, listed)))
        """The number of each entity's section."""
        self._starts = (self.sections << _SECTION_SHIFT) + self._column("start")

    def _column(self, name: str) -> Numbers:
        values = map(attrgetter(name), self.entities)
        return np.fromiter(values, dtype="i8", count=len(self.entities))

    def _locate(self, places: Numbers) -> Numbers:
        """The numbers of the entities at places; -1 where nothing is."""
        if not self.entities:
            return np.full(len(places), -1, dtype="i8")
        found = np.searchsorted(self._starts, places, side="right") - 1
        section = places >> _SECTION_SHIFT
        is_before = (found < 0) | (self.sections[found] != section)
        found = np.where(is_before, np.minimum(found + 1, len(self.entities) - 1), found)
        return np.where(self.sections[found] == section, found, -1)

    def _connect(self) -> None:
        """Who has which relocation, and what it refers to."""
        by_symbol = np.full(len(self.obj.symbols), -1, dtype="i8")
        by_symbol[[each.symbol for each in self.entities]] = np.arange(len(self.entities))
        target = by_symbol[self._symbol]
        unnamed = np.flatnonzero(~self._by_name)
        target[unnamed] = self._locate(np.maximum(self._target_place[unnamed], 0))
        external = self._symbol_external[self._symbol]
        target = np.where(external >= 0, -1 - external, target)
        owner = self._locate(self._place)
        lost = (owner < 0) | ((target < 0) & (external < 0))
        self._note_lost(lost)
        base = np.where(target >= 0, self.values[np.maximum(target, 0)], 0)
        delta = np.where(target >= 0, self._value - base, self._addend)
        keep = ~lost
        self.offset = (self._place & ((1 << _SECTION_SHIFT) - 1))[keep]
        self.type, self.owner = self.type[keep], owner[keep]
        self.target, self.delta = target[keep], delta[keep]
        self.by_name = (self._by_name | (external >= 0)).astype("i8")[keep]
        self._index_owners()  # places are in order, so owners and their offsets are
        self._add_hidden_branches()
        self._note_unknown_types()

    def _index_owners(self) -> None:
        numbers = np.arange(len(self.entities) + 1)
        self.first: list[int] = np.searchsorted(self.owner, numbers).tolist()
        """Where the relocations of each entity begin; one more for the end."""

    def _columns(self) -> tuple[Numbers, ...]:
        return self.owner, self.offset, self.type, self.target, self.delta, self.by_name

    def _note_lost(self, lost: npt.NDArray[np.bool_]) -> None:
        for place in self._place[lost].tolist():
            name = self.obj.sections[place >> _SECTION_SHIFT].name
            text = "a relocation refers to nothing that is known"
            self.oddities.append(Oddity("unknown-section", name, text))

    def _note_unknown_types(self) -> None:
        known = np.isin(self.type, list(self.arch.fields))
        last = self.offset.copy()
        for kind, bits in self.arch.fields.items():
            last[self.type == kind] += max(len(bits), 1) - 1
        beyond = last >= self.ends[self.owner]
        for number in np.flatnonzero(~known | beyond).tolist():
            owner = self.entities[int(self.owner[number])]
            name = owner.name or self.section(owner).name
            if known[number]:
                text = "a relocation lies between the symbols of its section, or beyond its end"
                self.oddities.append(Oddity("relocation-out-of-range", name, text, owner))
            else:
                text = f"has a relocation of the unknown type {int(self.type[number])}"
                self.oddities.append(Oddity("unknown-relocation", name, text, owner))

    def _add_hidden_branches(self) -> None:
        """Branches between functions of one section have no relocation: give them one."""
        rows: list[tuple[int, ...]] = []
        for index, listed in self._divided.items():
            if len(listed) > 1 and listed[0].kind is Kind.FUNCTION:
                for entity in listed:
                    rows += self._hidden_branches(index, entity)
        if not rows:
            return
        owner, offset, kind, place, addend = np.array(sorted(rows), dtype="i8").T
        target = self._locate(place)
        delta = addend - self.values[target]
        added = (owner, offset, kind, target, delta, np.zeros(len(rows), dtype="i8"))
        old, new = ((each[0] << _SECTION_SHIFT) + each[1] for each in (self._columns(), added))
        at = np.searchsorted(old, new)
        self.owner, self.offset, self.type, self.target, self.delta, self.by_name = (
            np.insert(*columns) for columns in zip(self._columns(), repeat(at), added)
        )
        self._index_owners()

    def _hidden_branches(self, index: int, entity: Entity) -> Iterator[tuple[int, ...]]:
        """Whose, where, of which type, to which place and with which addend."""
        references = self._references(entity)
        covered = set(self.offset[self.span(entity)].tolist()) if references else set()
        for found in references:
            if found.field not in covered:
                place = (index << _SECTION_SHIFT) + max(found.place, 0)
                addend = found.place - self.arch.pc_relative.get(found.type, 0)
                yield entity.number, found.field, found.type, place, addend

    def _find_families(self) -> None:
        """Entries to those that they speak of, cold parts to their functions."""
        targets = np.append(self.target, -1)[self.first]
        targets[np.diff(self.first, append=0) <= 0] = -1  # those without relocations
        self._described: list[int] = targets.tolist()
        targets = targets[:-1]
        is_meant = (self.kinds == Kind.ENTRY) & (targets >= 0)
        found = np.flatnonzero(is_meant & (targets != np.arange(len(targets))))
        found = found[targets[found].argsort(kind="stable")]
        listed = [self.entities[number] for number in found.tolist()]
        bounds = np.flatnonzero(np.diff(targets[found], prepend=-1, append=-1)).tolist()
        for first, end in pairwise(bounds):
            self.entities[self._described[listed[first].number]].entries = tuple(listed[first:end])
        functions = {each.name: each for each in self.functions()}
        parts: dict[Entity, list[Entity]] = {}
        for entity in functions.values():
            parent = functions.get(names.parent(entity.name))
            if parent is not None:
                entity.parent = parent
                parts.setdefault(parent, []).append(entity)
        for parent, children in parts.items():
            parent.parts = tuple(children)

    def described(self, entry: Entity) -> Entity | None:
        """What a table's entry speaks of: that which its first relocation refers to."""
        target = self._described[entry.number]
        return self.entities[target] if target >= 0 and target != entry.number else None

    def place(self, entry: Entity) -> int:
        """Where in its function an entry points, from the function's symbol on."""
        return int(self.delta[self.first[entry.number]])

    def _mask(self) -> None:
        """The contents of all sections, one behind the other, relocations blanked."""
        self._base: dict[int, int] = {}
        parts = []
        length = 0
        for index in self._divided:
            data = self.obj.sections[index].data
            if data:
                self._base[index] = length
                parts.append(data)
                length += len(data)
        masked = np.frombuffer(bytearray(b"".join([*parts, bytes(8)])), dtype="u1")
        self._bases = np.full(len(self.obj.sections), -1, dtype="i8")
        self._bases[list(self._base)] = list(self._base.values())
        places = self.offset + self._bases[self.sections[self.owner]]
        for kind, bits in self.arch.fields.items():
            found = places[self.type == kind]
            for distance, byte in enumerate(bits if len(found) else b""):
                if byte == 0xFF:
                    masked[found + distance] = 0
                else:
                    masked[found + distance] &= ~byte & 0xFF
        self._masked = masked.tobytes()
