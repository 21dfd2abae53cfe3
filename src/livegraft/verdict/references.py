# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for what new code refers to in the running kernel."""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity, Kind
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


def section_layout(comparison: Comparison) -> Iterator[Reason]:
    """Variables of a section that the source names, in another order than before.

    The assembler writes ``table[i - 1]`` as a place in the section, which may lie in the variable
    in front. As long as the neighbours are the same, that is the same place in the running kernel.
    """
    unit = comparison.patched
    for entity in comparison.inclusion.in_order():
        for use in unit.uses(entity):
            target = use.target
            if use.by_name or not isinstance(target, Entity) or target.kind is not Kind.DATA:
                continue
            is_certain = use.type in unit.arch.unindexed or comparison.inclusion.is_included(target)
            if not is_certain and not _has_same_neighbours(comparison, target):
                section = unit.section(target).name
                text = f"has other neighbours in {section} than before, and code counts from it"
                remedy = "put the variables that the fix adds into no section or into another one"
                yield Reason("section-layout", target.name, text, remedy)


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
