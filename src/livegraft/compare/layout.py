# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the parts of a payload lie in its object."""

from __future__ import annotations

from dataclasses import dataclass

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.inclusion import Inclusion
from livegraft.compare.unit import Unit
from livegraft.elf.header import SectionFlag, SectionType
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType

_MERGE_FLAGS = SectionFlag.MERGE | SectionFlag.STRINGS | SectionFlag.GROUP


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entity went: a section of the payload, and the offset of the entity's start."""

    section: int
    offset: int


class Layout:
    """The sections of a payload, filled with the bytes of its parts.

    Args:
        unit: the patched object.
        inclusion: what the payload holds.
    """

    def __init__(self, unit: Unit, inclusion: Inclusion) -> None:
        self.unit = unit
        self.obj = ElfObject(unit.obj.machine, unit.obj.byte_order, unit.obj.flags)
        self.places: dict[Entity, Place] = {}
        self.section_symbols: dict[int, int] = {}
        self._shared: dict[tuple[object, ...], int] = {}
        self._alone = _alone(unit)
        self._padding = _padding_in_front(unit)
        for entity in inclusion.in_order():
            self._add(entity)
        for entity in inclusion.in_order():
            for entry in entity.entries:
                self._add_entry(entry, entity)

    def add_section(self, section: Section) -> int:
        """A new section with its symbol."""
        number = self.obj.add_section(section)
        self.section_symbols[number] = self.obj.add_symbol(
            Symbol("", number, type=SymbolType.SECTION, binding=Binding.LOCAL)
        )
        return number

    def offset(self, entity: Entity, position: int) -> int:
        """An offset in an entity's section of the patched object as one in its new section."""
        place = self.places[entity]
        return position - self._first(entity) + place.offset

    def _first(self, entity: Entity) -> int:
        """Where the bytes begin that the payload takes of an entity."""
        if entity.kind is not Kind.FUNCTION or entity in self._alone:
            return entity.start
        return max(entity.start, entity.value - self._padding)

    def _data(self, entity: Entity) -> bytes:
        section = self.unit.section(entity)
        return section.data[self._first(entity) : entity.end]

    def _add(self, entity: Entity) -> None:
        section = self.unit.section(entity)
        if entity.kind in (Kind.STRING, Kind.CONSTANT, Kind.SNIPPET):
            self._append(entity, section.name, section, self._data(entity))
            return
        is_empty = section.type == SectionType.NOBITS
        added = Section(
            self._name(entity),
            section.type,
            section.flags & ~_MERGE_FLAGS,
            b"" if is_empty else self._data(entity),
            entity.end - self._first(entity),
            section.alignment,
        )
        self.places[entity] = Place(self.add_section(added), 0)

    def _name(self, entity: Entity) -> str:
        """A section of its own for each function and variable.

        Never one that the module loader frees or that ftrace leaves out (``.init.text``).
        """
        if entity.kind is Kind.FUNCTION:
            return f".text.{entity.name}"
        name = self.unit.section(entity).name
        return sections.PER_CPU if sections.is_per_cpu(name) else name

    def _append(
        self, entity: Entity, name: str, section: Section, data: bytes, key: object = 0
    ) -> None:
        """Put an entity behind others of its kind, aligned as its section was."""
        if section.is_strings or section.flags & SectionFlag.MERGE:
            kind = f"str1.{section.alignment}" if section.is_strings else f"cst{section.entry_size}"
            name = f".rodata.{kind}"
        flags = section.flags & ~_MERGE_FLAGS
        number = self._shared.get((name, flags, key))
        if number is None:
            size = 0 if section.flags & SectionFlag.MERGE else section.entry_size
            added = Section(name, section.type, flags, b"", -1, section.alignment, size)
            if isinstance(key, Entity):
                added.link = self.places[key].section
            number = self._shared[name, flags, key] = self.add_section(added)
        target = self.obj.sections[number]
        target.alignment = max(target.alignment, section.alignment)
        is_code = entity.kind is Kind.SNIPPET
        gap = 0 if is_code else -len(target.data) % max(section.alignment, 1)
        self.places[entity] = Place(number, len(target.data) + gap)
        target.data += bytes(gap) + data
        target.size = len(target.data)

    def _add_entry(self, entry: Entity, owner: Entity) -> None:
        section = self.unit.section(entry)
        key = owner if section.flags & SectionFlag.LINK_ORDER else 0
        self._append(entry, section.name, section, section.data[entry.start : entry.end], key)


def _alone(unit: Unit) -> set[Entity]:
    """Entities that have their section for themselves."""
    counts: dict[int, int] = {}
    for entity in unit.entities:
        counts[entity.section] = counts.get(entity.section, 0) + 1
    return {entity for entity in unit.entities if counts[entity.section] == 1}


def _padding_in_front(unit: Unit) -> int:
    """Bytes in front of each function that belong to it (``-fpatchable-function-entry=16,16``)."""
    places = [
        unit.place(entry)
        for function in unit.functions()
        for entry in function.entries
        if entry.name in unit.arch.entry_tables
    ]
    return max(0, -min(places, default=0))
