# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions have to be patched, by their names in the source: told from both objects.

A clone (``foo.isra.0``) has a calling convention of its own, which only this compilation knows. No
other compilation may be called in its stead: all functions that call a changed clone are patched,
and bring the clone along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from livegraft.compare import names, sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.extract.selection import Wanted


def wanted(comparison: Comparison) -> Wanted:
    """What has to be in the live patch, and what of it the running kernel has."""
    unit, pairs = comparison.patched, comparison.pairs
    users = _users(unit)
    patched: set[Entity] = set()
    brought: set[Entity] = set(comparison.new_entities)
    work = list(comparison.changed_entities)
    while work:
        entity = work.pop()
        if entity in patched or entity in brought:
            continue
        if not is_clone(entity.name) and entity in pairs.of_patched:
            patched.add(entity)
            continue
        brought.add(entity)
        work += [each for each in users[entity] if not sections.is_initial(unit.section(each).name)]
    callbacks = {each.name for _, each in comparison.marks.callbacks if isinstance(each, Entity)}
    own = {names.base(each.name) for each in (*patched, *brought)}
    running = {
        patched_one.name
        for patched_one, original in pairs.of_patched.items()
        if patched_one.kind in NAMED
        and patched_one.name == original.name
        and not is_clone(original.name)
    }
    running |= {
        each.name
        for each in comparison.original.entities
        if each.kind is Kind.DATA and not names.is_numbered(each.name)
    }
    new_globals = comparison.new_globals
    return Wanted(
        frozenset(names.base(each.name) for each in patched),
        frozenset(own | callbacks | new_globals),
        frozenset(running - own),
        _referred(unit),
    )


def is_clone(name: str) -> bool:
    """Whether the compiler made it of another function."""
    return names.base(name) != name


def _users(unit: Unit) -> dict[Entity, set[Entity]]:
    """By function, the functions whose code refers to it."""
    found: dict[Entity, set[Entity]] = defaultdict(set)
    for owner, target in _references(unit):
        if isinstance(target, Entity) and target.kind is Kind.FUNCTION and target.top is not owner:
            found[target.top].add(owner)
    return found


def _referred(unit: Unit) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {names.base(each.top.name): set() for each in unit.functions()}
    for owner, target in _references(unit):
        name = target if isinstance(target, str) else names.base(target.name)
        found[names.base(owner.name)].add(name)
    return found


def _references(unit: Unit) -> Iterator[tuple[Entity, Entity | str]]:
    """What the code of each function refers to, its cold parts and table entries included."""
    for function in unit.functions():
        for part in (function, *function.entries):
            for use in unit.uses(part):
                if isinstance(use.target, str) or use.target.kind in NAMED:
                    yield function.top, use.target
