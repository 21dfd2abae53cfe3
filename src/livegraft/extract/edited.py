# SPDX-License-Identifier: GPL-2.0-or-later
"""What was edited in an extracted text, and would not come into force.

A text defines more than its payload takes: the rest is the running kernel's. So the edited text's
object is compared with that of the text as the fix has it, and what differs has to be brought.
"""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import names, sections
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.entity import Entity
from livegraft.errors import Reason

RULE = "edited-beyond"


def beyond(unedited: Comparison, edited: Comparison, unit: Comparison) -> Iterator[Reason]:
    """What differs in the edited text and stays as it runs, or becomes two.

    What is as in the unit's whole patched text was not edited: only the compiler took it otherwise.

    Args:
        unedited: delivered of the text that was cut out of the fix.
        edited: delivered of the text that was given.
        unit: of the original and the patched object.
    """
    from_text = compare_objects(unedited.patched.obj, edited.patched.obj)
    from_unit = compare_objects(unit.patched.obj, edited.patched.obj)
    functions = _functions(from_text) & _functions(from_unit)
    variables = _variables(from_text) & _variables(from_unit)
    for each in edited.patched.functions():
        if each.number in functions and not _is_replaced(each, edited, unit):
            yield Reason(
                RULE,
                each.name,
                "is edited or added, and the running kernel would keep its own",
                f"add LIVEGRAFT_PATCHES({names.base(each.name)}), or undo the edit",
            )
    for each in edited.patched.variables():
        if each.number in variables and each not in edited.inclusion.copied:
            section = edited.patched.section(each).name
            yield Reason(
                RULE,
                each.name,
                f"has another size, initial value or storage ({section}), or is added and not "
                "used; a live patch does not bring it",
                "undo the edit, or set the running variable in a callback",
            )


def _functions(comparison: Comparison) -> set[int]:
    """Functions that differ or are new, by their numbers in the edited object."""
    return {each.number for each in (*comparison.changed_entities, *comparison.new_entities)}


def _variables(comparison: Comparison) -> set[int]:
    """Variables that differ or are new, by their numbers in the edited object."""
    found = {each.number for each in (*comparison.changed_data, *comparison.new_data)}
    return found | {each.number for each in _stored_otherwise(comparison)}


def _stored_otherwise(comparison: Comparison) -> Iterator[Entity]:
    for after in comparison.patched.variables():
        before = comparison.pairs.of_patched.get(after)
        if before is None:
            continue
        old, new = comparison.original.section(before), comparison.patched.section(after)
        kept = [sections.storage(each.name, each.flags) for each in (old, new)]
        if kept[0] != kept[1] or old.alignment < new.alignment:
            yield after


def _is_replaced(function: Entity, edited: Comparison, unit: Comparison) -> bool:
    """Whether all who call a function get the edited one.

    One that comes along without being replaced must be new, or a clone all of whose callers are
    patched because the fix changes it.
    """
    if function in edited.changed_entities:
        return True
    if function not in edited.inclusion.functions:
        return False
    name = names.base(function.name)
    brought = {names.base(each.name) for each in (*unit.changed_entities, *unit.new_entities)}
    running = {names.base(each.name) for each in unit.original.functions()}
    return name in brought or name not in running
