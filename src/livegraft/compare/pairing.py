# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function or variable of the patched unit is which of the original.

Names decide, but for what the compiler numbers: clones (``foo.constprop.0``) and static locals
(``count.12``) get other numbers when something else comes or goes.

A wrong pair of clones does no harm: callers that did not change call the pair's other half in the
same way, and the patched unit is consistent in itself. So clones are paired by content first, the
rest in order. A wrong pair of static locals would exchange two counters: they are paired by size
and by the functions that use them, and what may or may not be a pair is named as ambiguous.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np

from livegraft.compare import names
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.elf.arch.architecture import Instruction

CONTEXT = 1
"""Instructions in front of and behind a reference that have to be the same."""


_MOST_CHOICES = 1 << 16
"""Static locals of one name, old ones by new ones: with more, none is chosen by its users."""


@dataclass(slots=True)
class Pairs:
    """Pairs of entities.

    Args:
        of_patched: patched entity -> original one.
        of_original: original entity -> patched one.
        ambiguous: patched variables that may or may not be one of the original's.
    """

    of_patched: dict[Entity, Entity] = field(default_factory=dict)
    of_original: dict[Entity, Entity] = field(default_factory=dict)
    ambiguous: list[Entity] = field(default_factory=list)

    def add(self, original: Entity, patched: Entity) -> None:
        """Two that are one."""
        self.of_patched[patched] = original
        self.of_original[original] = patched


@dataclass(slots=True)
class _Group:
    """All of one family that are not paired yet."""

    old: list[Entity] = field(default_factory=list)
    new: list[Entity] = field(default_factory=list)


def pair(original: Unit, patched: Unit) -> Pairs:
    """Pair the functions and variables of two objects of one unit."""
    pairs = Pairs()
    functions = _pair_names(original.functions(), patched.functions(), pairs)
    variables = _pair_names(original.variables(), patched.variables(), pairs)
    for group in functions:
        _pair_clones(group, original, patched, pairs)
    before, after = Users(original), Users(patched)
    for group in variables:
        _pair_statics(group, before, after, pairs)
    return pairs


def _pair_names(
    original: Iterable[Entity], patched: Iterable[Entity], pairs: Pairs
) -> list[_Group]:
    """Pair by names that the compiler did not choose; returns the rest by families."""
    families: dict[str, _Group] = defaultdict(_Group)
    plain: dict[str, list[Entity]] = defaultdict(list)
    for entity in original:
        if not entity.is_always_new:
            if names.is_numbered(entity.name):
                families[names.family(entity.name)].old.append(entity)
            else:
                plain[entity.name].append(entity)
    for entity in patched:
        if not entity.is_always_new:
            twins = plain.get(entity.name)
            if names.is_numbered(entity.name):
                families[names.family(entity.name)].new.append(entity)
            elif twins:  # several are of units that were linked together, which keep their order
                pairs.add(twins.pop(0), entity)
    return [group for group in families.values() if group.old and group.new]


def _pair_clones(group: _Group, original: Unit, patched: Unit, pairs: Pairs) -> None:
    if len(group.old) > 1 or len(group.new) > 1:
        _pair_unique(
            group, lambda each: _shape(original, each), lambda each: _shape(patched, each), pairs
        )
    for first, second in zip(_in_order(group.old), _in_order(group.new), strict=False):
        pairs.add(first, second)


def _shape(unit: Unit, entity: Entity) -> Hashable:
    return unit.masked(entity), (unit.offset[unit.span(entity)] - entity.value).tobytes()


def _pair_statics(group: _Group, before: Users, after: Users, pairs: Pairs) -> None:
    _pair_unique(
        group,
        lambda each: (each.size, before.of(each)),
        lambda each: (each.size, after.of(each)),
        pairs,
    )
    _pair_same_users(group, before, after, pairs)
    _pair_only_choice(group, before, after, pairs)
    is_many = len(group.old) * len(group.new) > _MOST_CHOICES
    pairs.ambiguous += [
        each for each in group.new if is_many or _candidates(each, group, before, after)
    ]


def _pair_same_users(group: _Group, before: Users, after: Users, pairs: Pairs) -> None:
    """Several of one name in one function (inner blocks): the code around each use tells which.

    Blocks that were exchanged take their numbers along, so numbers and places alone say nothing.
    Where the code around is the same too, the order of both has to say the same.
    """
    classes: dict[Hashable, _Group] = defaultdict(_Group)
    for each in group.old:
        classes[each.size, before.of(each)].old.append(each)
    for each in group.new:
        classes[each.size, after.of(each)].new.append(each)
    for found in classes.values():
        if not found.old or not found.new:
            continue
        contexts: dict[Hashable, _Group] = defaultdict(_Group)
        for each in found.old:
            contexts[before.context(each)].old.append(each)
        for each in found.new:
            contexts[after.context(each)].new.append(each)
        for same in contexts.values():
            if len(same.old) != len(same.new):
                continue
            by_number = list(zip(_in_order(same.old), _in_order(same.new), strict=True))
            by_use = zip(before.in_order(same.old), after.in_order(same.new), strict=True)
            if set(by_number) == set(by_use):
                for first, second in by_number:
                    pairs.add(first, second)
    group.old = [each for each in group.old if each not in pairs.of_original]
    group.new = [each for each in group.new if each not in pairs.of_patched]


def _pair_only_choice(group: _Group, before: Users, after: Users, pairs: Pairs) -> None:
    """Users came or went, but only one is left that shares some."""
    if len(group.old) * len(group.new) > _MOST_CHOICES:
        return
    for each in list(group.new):
        candidates = _candidates(each, group, before, after)
        if len(candidates) != 1:
            continue
        rivals = [
            other
            for other in group.new
            if other.size == each.size and before.of(candidates[0]) & after.of(other)
        ]
        if len(rivals) == 1:
            _take(group, candidates[0], each, pairs)


def _candidates(entity: Entity, group: _Group, before: Users, after: Users) -> list[Entity]:
    users = after.of(entity)
    return [each for each in group.old if each.size == entity.size and before.of(each) & users]


def _take(group: _Group, first: Entity, second: Entity, pairs: Pairs) -> None:
    pairs.add(first, second)
    group.old.remove(first)
    group.new.remove(second)


def _in_order(entities: list[Entity]) -> list[Entity]:
    return sorted(entities, key=lambda each: names.number(each.name))


def _pair_unique(
    group: _Group,
    old_key: Callable[[Entity], Hashable],
    new_key: Callable[[Entity], Hashable],
    pairs: Pairs,
) -> None:
    """Pair those whose key occurs once on each side; they leave the group."""
    table: dict[Hashable, _Group] = defaultdict(_Group)
    for entity in group.old:
        table[old_key(entity)].old.append(entity)
    for entity in group.new:
        table[new_key(entity)].new.append(entity)
    paired: set[Entity] = set()
    for found in table.values():
        if len(found.old) == len(found.new) == 1:
            pairs.add(found.old[0], found.new[0])
            paired.update((found.old[0], found.new[0]))
    group.old = [each for each in group.old if each not in paired]
    group.new = [each for each in group.new if each not in paired]


class Users:
    """Who refers to the static locals of a unit, by names without what the compiler appended."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._users: dict[int, set[str]] = defaultdict(set)
        self._positions: dict[int, list[int]] = defaultdict(list)
        numbered = np.zeros(len(unit.entities), dtype=bool)
        numbered[[each.number for each in unit.variables() if names.is_numbered(each.name)]] = True
        is_static = (unit.target >= 0) & numbered[np.maximum(unit.target, 0)]
        for position in np.flatnonzero(is_static).tolist():
            target = int(unit.target[position])
            owner = _speaker(unit, unit.entities[int(unit.owner[position])])
            if owner is None or owner.number == target:
                continue
            self._users[target].add(names.base(owner.top.name))
            self._positions[target].append(position)

    def of(self, entity: Entity) -> frozenset[str]:
        """The functions and variables that refer to it."""
        return frozenset(self._users.get(entity.number, ()))

    def in_order(self, entities: list[Entity]) -> list[Entity]:
        """By the first reference to each."""
        return sorted(entities, key=lambda each: self._positions.get(each.number, [-1])[0])

    def context(self, entity: Entity) -> Hashable:
        """Its initial value, and the code around each reference to it, distances aside."""
        around = tuple(self._around(at) for at in self._positions.get(entity.number, ()))
        return self._unit.masked(entity), around

    def _around(self, position: int) -> Hashable:
        unit = self._unit
        owner = unit.entities[int(unit.owner[position])]
        place = int(unit.offset[position])
        if owner.kind is not Kind.FUNCTION:
            return owner.name if owner.kind is Kind.ENTRY else place - owner.value
        listed = unit.instructions(owner)
        at = bisect_right(listed, place, key=lambda each: each.offset) - 1
        near = listed[max(at - CONTEXT, 0) : at + CONTEXT + 1]
        return tuple(_form(unit, owner, each) for each in near)


def _form(unit: Unit, function: Entity, instruction: Instruction) -> Hashable:
    """What an instruction is, registers and distances aside: what follows may shift them."""
    if unit.arch.destination(instruction, unit.section(function).data) is not None:
        return unit.arch.is_jump(instruction)
    data = unit.section(function).data[instruction.immediate : instruction.end]
    return instruction.map, instruction.opcode, data


def _speaker(unit: Unit, owner: Entity) -> Entity | None:
    """The function or variable that a relocation belongs to, be it in an entry about it."""
    found = unit.described(owner) if owner.kind is Kind.ENTRY else owner
    return found if found is not None and found.kind in NAMED else None
