# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for what new code refers to in the running kernel."""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.unit import Unit
from livegraft.errors import Reason


def init_reference(comparison: Comparison) -> Iterator[Reason]:
    """What was freed after the boot: ``build_all_zonelists()`` is ``__ref``."""
    for entity in sorted(comparison.inclusion.referred, key=lambda each: each.number):
        running = comparison.original_of(entity)
        section = (
            comparison.original.section(running) if running else comparison.patched.section(entity)
        ).name
        if sections.is_initial(section):
            text = f"is needed by the new code and is gone after the boot or loading ({section})"
            yield Reason("init-reference", entity.name, text, "leave its user out of the fix")
    yield from _undefined_initial(comparison)


def _undefined_initial(comparison: Comparison) -> Iterator[Reason]:
    """The same for what the new object does not define, but the running unit."""
    unit, original = comparison.patched, comparison.original
    initial = {
        each.name: original.section(each).name
        for each in original.entities
        if each.kind in NAMED and sections.is_initial(original.section(each).name)
    }
    for entity in comparison.inclusion.in_order() if initial else ():
        for use in unit.uses(entity):
            if isinstance(use.target, str) and use.target in initial:
                text = f"is needed by {entity.name} and is gone after the boot or loading "
                text += f"({initial[use.target]})"
                yield Reason("init-reference", use.target, text, "leave its user out of the fix")


def section_layout(comparison: Comparison) -> Iterator[Reason]:
    """Variables of a section that the source names, in another order than before.

    The assembler writes ``table[i - 1]`` as a place in the section, which may lie in the variable
    in front, and ``table + ARRAY_SIZE(table)`` as the place of the variable behind. As long as the
    neighbours are the same, that is the same place in the running kernel.
    """
    unit = comparison.patched
    remedy = "put the variables that the fix adds into no section or into another one"
    for entity in comparison.inclusion.in_order():
        for use in unit.uses(entity):
            target = use.target
            if use.by_name or not isinstance(target, Entity) or target.kind is not Kind.DATA:
                continue
            if use.type in unit.arch.unindexed:
                continue
            section = unit.section(target).name
            if comparison.inclusion.is_included(target):
                if use.delta == 0 and _ends_a_variable(unit, target):
                    text = f"lies in {section} where a variable ends, and code refers to that place"
                    yield Reason("section-layout", target.name, text, remedy)
            elif not _has_same_neighbours(comparison, target):
                text = f"has other neighbours in {section} than before, and code counts from it"
                yield Reason("section-layout", target.name, text, remedy)


def _ends_a_variable(unit: Unit, variable: Entity) -> bool:
    """Whether the place of a variable may be meant as the end of the one in front.

    Nobody asks for the end of what stands for a place in the source: ``descriptor``, ``__warned``.
    """
    front, _ = unit.neighbours(variable)
    if front is None or front.is_always_new or variable.is_always_new:
        return False
    return front.end == variable.value


def _has_same_neighbours(comparison: Comparison, variable: Entity) -> bool:
    original = comparison.original_of(variable)
    if original is None:
        return False
    now = comparison.patched.neighbours(variable)
    then = comparison.original.neighbours(original)
    distances = [
        [each.value - middle.value if each is not None else None for each in listed]
        for listed, middle in ((now, variable), (then, original))
    ]
    twins = tuple(comparison.original_of(each) if each is not None else None for each in now)
    return twins == then and distances[0] == distances[1]
