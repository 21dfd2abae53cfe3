# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions have to be patched, by their names in the source: told from both objects.

A clone (``foo.isra.0``) has a calling convention of its own, which only this compilation knows. No
other compilation may be called in its stead: all functions that call a changed clone are patched,
and bring the clone along.
"""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import names, sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity
from livegraft.compare.tracing import callers_of, is_tail_called, is_traced
from livegraft.compare.unit import Unit
from livegraft.errors import Reason, Refused
from livegraft.extract.selection import Wanted


def wanted(comparison: Comparison) -> Wanted:
    """What has to be in the live patch, and what of it the running kernel has.

    Raises:
        Refused: a clone changed that not only its callers may be in (rule ``clone-changed``).
    """
    unit, pairs = comparison.patched, comparison.pairs
    patched, brought = _spread(comparison)
    callbacks = {each.name for _, each in comparison.marks.callbacks if isinstance(each, Entity)}
    own = {names.base(each.name) for each in (*patched, *brought)}
    running = {
        patched_one.name
        for patched_one, original in pairs.of_patched.items()
        if patched_one.kind in NAMED
        and patched_one.name == original.name
        and not is_clone(original.name)
    }
    new_globals = comparison.new_globals
    return Wanted(
        frozenset(names.base(each.name) for each in patched),
        frozenset(each.name for each in shared(comparison, unit)),
        frozenset(own | callbacks | new_globals),
        frozenset(running - own),
        _referred(unit),
    )


def shared(comparison: Comparison, unit: Unit) -> list[Entity]:
    """The functions of an object of the unit that are new and that other units may call."""
    return [each for each in unit.functions() if each.name in comparison.new_globals]


def is_clone(name: str) -> bool:
    """Whether the compiler made it of another function."""
    return names.base(name) != name


def _spread(comparison: Comparison) -> tuple[set[Entity], set[Entity]]:
    """What the running kernel is led to, and what comes along as if it were new.

    A clone that changed, and a function that ftrace cannot redirect, come along with those that
    call them.
    """
    unit, pairs = comparison.patched, comparison.pairs
    patched: set[Entity] = set()
    brought: set[Entity] = set(comparison.new_entities)
    reasons: list[Reason] = []
    work = list(comparison.changed_entities)
    clones = {each for each in work if is_clone(each.name)}
    while work:
        entity = work.pop()
        if entity in patched or entity in brought:
            continue
        original = pairs.of_patched.get(entity)
        if entity in comparison.changed_entities and entity not in clones:
            patched.add(entity)
            continue
        if original is not None and not is_clone(entity.name) and _is_led(comparison, original):
            patched.add(entity)
            continue
        brought.add(entity)
        callers = callers_of(unit, entity)
        before = callers_of(comparison.original, original) if original is not None else set()
        is_left = original is not None and is_tail_called(comparison.original, original)
        if callers is None or before is None or is_left:
            reasons.append(_clone_changed(entity, is_left))
            continue
        work += [each for each in callers if not sections.is_initial(unit.section(each).name)]
    if reasons:
        raise Refused(comparison.patched.subject, reasons)
    return patched, brought


def _is_led(comparison: Comparison, original: Entity) -> bool:
    """Whether the running kernel can be led away from a function."""
    return is_traced(comparison.original, original)


def _clone_changed(entity: Entity, is_left: bool) -> Reason:
    how = "leave their own frame for it" if is_left else "are not all known"
    return Reason(
        "clone-changed",
        entity.name,
        f"changed and can be reached through its callers only, which {how}",
        "prepare the patch with --method compare",
    )


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
