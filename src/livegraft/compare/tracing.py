# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that ftrace cannot redirect, and who may bring them along instead.

Kernel ``inline`` implies ``notrace``. A static inline function that the compiler did not inline has
no ftrace entry, but all that calls it is in the unit: its callers bring the new version along.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from livegraft.compare.entity import Entity, Kind
from livegraft.compare.pairing import Pairs
from livegraft.compare.unit import Unit, Use
from livegraft.elf.object import Binding


def is_traced(unit: Unit, function: Entity) -> bool:
    """Whether ftrace can redirect calls of a function."""
    if any(_is_ftrace_site(unit, entry) for entry in function.entries):
        return True
    return any(use.target in unit.arch.ftrace_calls for use in unit.uses(function))


def _is_ftrace_site(unit: Unit, entry: Entity) -> bool:
    if entry.name not in unit.arch.ftrace_tables:
        return False
    return abs(unit.place(entry)) <= unit.arch.ftrace_span


def bring_along(before: Unit, after: Unit, pairs: Pairs, changed: set[Entity]) -> set[Entity]:
    """Let callers bring along what cannot be redirected.

    Args:
        changed: changed functions; what is brought along leaves them, and its callers join.

    Returns:
        The functions that are brought along as if they were new.
    """
    brought: set[Entity] = set()
    work = list(changed)
    while work:
        function = work.pop()
        original = pairs.of_patched.get(function)
        if function in brought or original is None or is_traced(before, original):
            continue
        callers = callers_of(after, function)
        if not callers or callers_of(before, original) is None or is_tail_called(before, original):
            continue  # it stays changed, and is refused: the old one may be called or run unseen
        brought.add(function)
        changed.discard(function)
        for caller in callers - brought - changed:
            if caller in pairs.of_patched:
                changed.add(caller)
                work.append(caller)
    return brought


def callers_of(unit: Unit, function: Entity) -> set[Entity] | None:
    """The functions that call one; None if others may, or if its address is kept."""
    numbers = [function.symbol, *function.aliases]
    if any(unit.obj.symbols[number].binding != Binding.LOCAL for number in numbers):
        return None
    callers: set[Entity] = set()
    for owner, use in _uses_of(unit, function):
        subject = unit.described(owner) if owner.kind is Kind.ENTRY else owner
        if subject is None or subject.kind is not Kind.FUNCTION:
            return None
        if subject.top is function:
            continue
        if owner.kind is Kind.ENTRY or not unit.is_branch(use, owner.section):
            return None
        callers.add(subject.top)
    return callers


def is_tail_called(unit: Unit, function: Entity) -> bool:
    """Whether a caller leaves its own frame for it: a task in it is then not seen in the caller."""
    for owner, use in _uses_of(unit, function):
        if owner.kind is Kind.FUNCTION and owner.top is not function:
            listed = unit.instructions(owner)
            if any(each.immediate == use.offset and unit.arch.is_jump(each) for each in listed):
                return True
    return False


def _uses_of(unit: Unit, function: Entity) -> Iterator[tuple[Entity, Use]]:
    """Who refers to a function or its cold parts, and how."""
    parts = [each for each in unit.functions() if each.top is function]
    numbers = np.array([each.number for each in parts])
    for number in np.unique(unit.owner[np.isin(unit.target, numbers)]).tolist():
        owner = unit.entities[number]
        for use in unit.uses(owner):
            if use.target in parts:
                yield owner, use
