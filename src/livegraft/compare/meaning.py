# SPDX-License-Identifier: GPL-2.0-or-later
"""What relocations mean, in numbers that are the same for both objects.

Both halves of a pair have one number; so have equal strings, equal constants, and equal copies of
what is always taken new. A function is the same if its bytes and the numbers of its relocations
are.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from operator import itemgetter

import numpy as np

from livegraft.compare import names
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.pairing import Pairs
from livegraft.compare.unit import Numbers, Unit
from livegraft.errors import ElfError

_PLACE_IN_SOURCE = re.compile(rb"(\.[chS]:)\d+")
"""A line number in a string: ``fs/ext4/super.c:123``."""

_ROW = 4 * 8
"""Bytes of a relocation as it is compared: four numbers."""

_DEEPEST = 100
"""Constants that refer to one another, from one that code refers to."""


def without_line(unit: Unit, entity: Entity) -> bytes:
    """An entity's bytes, relocations blanked, and the line number of a descriptor that has one."""
    data = unit.masked(entity)
    if entity.kind is not Kind.DATA:
        return data
    bits = names.line_bits(entity.name, unit.arch.byte_order)
    if bits and len(data) > max(bits):
        blanked = bytearray(data)
        for at, mask in bits.items():
            blanked[at] &= ~mask & 0xFF
        return bytes(blanked)
    return data


class Meanings:
    """The meanings of all relocations of two objects.

    Args:
        original: the object before the fix.
        patched: the object after it.
        pairs: which is which.

    Raises:
        ElfError: constants refer to one another without end.
    """

    def __init__(self, original: Unit, patched: Unit, pairs: Pairs) -> None:
        self._units = (original, patched)
        self._numbers: dict[Hashable, int] = {}
        self._depth = 0
        paired = range(1, 1 + len(pairs.of_original))
        self._first = paired.stop
        """The first number that means no pair."""
        self._known = (
            dict(zip(pairs.of_original, paired, strict=True)),
            dict(zip(pairs.of_original.values(), paired, strict=True)),
        )
        self._moved = self._moved_sections() if original.arch.has_anchors else frozenset()
        self._rows = tuple(self._rows_of(side).tobytes() for side in (0, 1))
        self._shapes: dict[str, tuple[slice, int | None]] = {}

    def code(self, side: int, entity: Entity) -> bytes:
        """An entity's bytes, relocations and line numbers blanked."""
        return without_line(self._units[side], entity)

    def local_entry(self, side: int, function: Entity) -> int:
        """What the function's symbol says of its local entry point."""
        unit = self._units[side]
        bits = unit.arch.local_entry
        return unit.obj.symbols[function.symbol].other & bits if bits else 0

    def relocations(self, side: int, entity: Entity) -> bytes:
        """An entity's relocations: distance, type, meaning and delta of each."""
        first = self._units[side].first
        return self._rows[side][_ROW * first[entity.number] : _ROW * first[entity.number + 1]]

    def have_same_entries(self, original: Entity, patched: Entity) -> bool:
        """Whether the same table entries speak of two entities.

        Tables may list places in another order, but not the entries of one place: of alternatives
        that fit the processor the last one stays.
        """
        old, new = original.entries, patched.entries
        if not old and not new:
            return True
        if len(old) == len(new) and all(map(self._is_same_entry, old, new)):
            return True
        return self._entries(0, original) == self._entries(1, patched)

    def _is_same_entry(self, old: Entity, new: Entity) -> bool:
        before, after = self._units
        if old.name != new.name:
            return False
        if old.name in before.arch.ftrace_tables:
            return True
        is_same = before.masked(old) == after.masked(new)  # as most are, what is ignored too
        return self.relocations(0, old) == self.relocations(1, new) and (
            is_same or self._entry_code(before, old) == self._entry_code(after, new)
        )

    def _entries(self, side: int, entity: Entity) -> list[tuple[str, int, bytes, bytes]]:
        """All entries by their tables and places, those of one place in the table's order."""
        unit = self._units[side]
        found = [
            (
                entry.name,
                unit.place(entry),
                self._entry_code(unit, entry),
                self.relocations(side, entry),
            )
            for entry in entity.entries
            if entry.name not in unit.arch.entry_tables
        ]
        return sorted(found, key=itemgetter(0, 1))

    def _entry_code(self, unit: Unit, entry: Entity) -> bytes:
        data = unit.masked(entry)
        shape = self._shapes.get(entry.name)
        if shape is None:
            table = unit.arch.table_of(entry.name)
            ignored = table.ignored if table is not None else range(0)
            length = table.length if table is not None else 0
            # Padding follows the length, which the last entry lacks.
            shape = slice(ignored.start, ignored.stop), length or None
            self._shapes[entry.name] = shape
        ignored_bytes, counted = shape
        if ignored_bytes.stop:
            blank = bytes(ignored_bytes.stop - ignored_bytes.start)
            data = data[: ignored_bytes.start] + blank + data[ignored_bytes.stop :]
        return data[:counted]

    def _number(self, token: Hashable) -> int:
        return self._numbers.setdefault(token, self._first + len(self._numbers))

    def _rows_of(self, side: int) -> Numbers:
        unit = self._units[side]
        starts = unit.values[unit.owner]
        kinds = unit.type.copy()
        for kind, same in unit.arch.same_meaning.items():
            kinds[kinds == kind] = same
        lowest = -len(unit.externals)
        # Numbers of targets begin at -len(externals): shift them to index an array.
        table = np.zeros(len(unit.entities) + len(unit.externals), dtype="i8")
        is_used = np.zeros(len(table), dtype=bool)
        is_used[unit.target - lowest] = True
        self._know_strings(side)
        known = self._known[side]
        places = np.fromiter((each.number for each in known), dtype="i8", count=len(known)) - lowest
        table[places] = np.fromiter(known.values(), dtype="i8", count=len(known))
        is_used[places] = False
        used = np.flatnonzero(is_used)
        table[used] = [self._meaning(side, target) for target in (used + lowest).tolist()]
        meanings = table[unit.target - lowest]
        meanings[unit.target == unit.owner] = self._number("itself")
        for position in self._uncertain(unit) if self._moved else ():
            meanings[position] = self._number(("moved", side, int(unit.target[position])))
        return np.ascontiguousarray(
            np.column_stack([unit.offset - starts, kinds, meanings, unit.delta])
        )

    def _moved_sections(self) -> frozenset[str]:
        """Sections of several variables that lie in another way than before."""
        layouts: list[dict[str, list[tuple[Hashable, int]]]] = []
        for side, unit in enumerate(self._units):
            found: dict[str, list[tuple[Hashable, int]]] = {}
            for each in unit.variables():
                who = self._known[side].get(each, names.base(each.name))
                found.setdefault(unit.section(each).name, []).append((who, each.value))
            layouts.append(found)
        listed = ({name for name, each in found.items() if len(each) > 1} for found in layouts)
        return frozenset(
            name for name in set().union(*listed) if layouts[0].get(name) != layouts[1].get(name)
        )

    def _uncertain(self, unit: Unit) -> list[int]:
        """Relocations of code to a section that has moved, by which it may reach any variable.

        GCC addresses variables of one section from one of them (``-fsection-anchors``): which one
        is meant stands in instructions, not in relocations.
        """
        is_moved = np.array([each.name in self._moved for each in unit.obj.sections])
        is_code = np.array([each.is_code for each in unit.obj.sections])
        sections = np.array([each.section for each in unit.entities], dtype="i8")
        inside = (unit.target >= 0) & (unit.by_name == 0) & is_code[sections[unit.owner]]
        found = np.flatnonzero(inside)
        return [int(each) for each in found[is_moved[sections[unit.target[found]]]]]

    def _know_strings(self, side: int) -> None:
        """The numbers of all strings, for which a call each would take long: text means itself."""
        unit, known = self._units[side], self._known[side]
        strings = np.flatnonzero(unit.kinds == Kind.STRING)
        for number, text in zip(strings.tolist(), unit.all_masked(strings), strict=True):
            token = _PLACE_IN_SOURCE.sub(rb"\1", text) if b":" in text else text
            known[unit.entities[number]] = self._number(token)

    def _meaning(self, side: int, target: int) -> int:
        unit = self._units[side]
        if target < 0:
            return self._number(("external", unit.externals[-1 - target]))
        return self._identity(side, unit.entities[target])

    def _identity(self, side: int, entity: Entity) -> int:
        known = self._known[side]
        number = known.get(entity)
        if number is None:
            if self._depth == _DEEPEST:
                subject = entity.name or self._units[side].section(entity).name
                raise ElfError(subject, f"is the end of a chain of {_DEEPEST} constants")
            self._depth += 1
            known[entity] = 0  # what refers to itself is not followed twice
            number = known[entity] = self._number(self._token(side, entity))
            self._depth -= 1
        return number

    def _token(self, side: int, entity: Entity) -> Hashable:
        """What an entity is that has no pair."""
        if entity.kind in NAMED and not entity.is_always_new:
            return ("alone", side, entity)
        code = self.code(side, entity)
        uses = tuple(
            (
                use.offset - entity.value,
                use.type,
                ("external", use.target)
                if isinstance(use.target, str)
                else self._identity(side, use.target),
                use.delta,
            )
            for use in self._units[side].uses(entity)
        )
        kind = names.base(entity.name) if entity.kind is Kind.DATA else entity.kind.name
        if names.has_line(entity.name):
            kind = names.family(entity.name)
        return ("content", kind, code, uses)
