# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for variables: the running ones keep their values and their sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.wording import FEW, few
from livegraft.elf.object import Section
from livegraft.errors import Reason

if TYPE_CHECKING:
    from livegraft.verdict.values import Value

SAME_STORAGE = "leave its attributes as they are, or add a new one under another name"
SET_AT_RUN_TIME = "set the new value in code that the fix changes, or boot a kernel with the fix"


def init_data(comparison: Comparison) -> Iterator[Reason]:
    """Data of the boot is gone: ``__initconst`` tables, ``__setup()`` strings.

    Static locals that cannot be told apart are left to the function that they belong to.
    """
    doubtful = set(comparison.pairs.ambiguous)
    for variable in (*comparison.changed_data, *comparison.new_data):
        if variable in doubtful:
            continue
        section = comparison.patched.section(variable).name
        if sections.is_initial(section):
            text = f"is data of the boot or of a module's loading ({section})"
            yield Reason("init-code", variable.name, text, "leave it out of the fix")


def data_size_changed(comparison: Comparison) -> Iterator[Reason]:
    """The running variable has the old size: a member more in ``struct ext4_sb_info`` statics."""
    for variable in comparison.changed_data:
        original = comparison.original_of(variable)
        if original is None or original.size == variable.size or _is_initial(comparison, variable):
            continue
        text = f"had {original.size} bytes and would have {variable.size}"
        remedy = "keep the variable and add a new one (or a shadow variable) for the rest"
        yield Reason("data-size-changed", original.name, text, remedy)


def data_changed(comparison: Comparison) -> Iterator[Reason]:
    """The running variable has its value: a new method in ``ext4_file_operations``."""
    for variable in comparison.changed_data:
        original = comparison.original_of(variable)
        if original is None or original.size != variable.size or _is_initial(comparison, variable):
            continue
        # With it come the readers of debug information, which few comparisons need (20 ms).
        from livegraft.verdict.values import changed_values

        section = comparison.patched.section(variable)
        where = sections.protection(section.name)
        values = changed_values(comparison, original, variable)
        text = f"the initial value{where} changed ({section.name})"
        if values:
            parts = [f"{each.place} was {each.before} and would be {each.after}" for each in values]
            text += f": {few(parts, 'values', '; ')}"
        remedy = _setting(original.name, section, values)
        yield Reason("data-changed", original.name, text, remedy)


def _setting(variable: str, section: Section, values: Sequence[Value]) -> str:
    """The callback that would set the values while the patch is in use."""
    if not values or not all(each.is_expression for each in values):
        return SET_AT_RUN_TIME
    name = re.sub(r"\W", "_", variable)
    shown = values[:FEW]
    rest = " ..." if len(values) > FEW else ""
    if sections.storage(section.name, section.flags) == "read-only":
        tests = " ?: ".join(f"LIVEGRAFT_SET({each.place}, {each.after})" for each in shown)
        code = f"static int set_{name}(struct klp_object *object) {{ return {tests}{rest}; }}"
        kind, undo = "LIVEGRAFT_PRE_PATCH", "LIVEGRAFT_POST_UNPATCH"
    else:
        tests = " ".join(f"{each.place} = {each.after};" for each in shown)
        code = f"static void set_{name}(struct klp_object *object) {{ {tests}{rest} }}"
        kind, undo = "LIVEGRAFT_POST_PATCH", "LIVEGRAFT_PRE_UNPATCH"
    return (
        f'leave it as it runs with LIVEGRAFT_IGNORE_SECTION("{section.name}") of livegraft.h, and '
        f"set it in a callback: {code} {kind}(set_{name}); the old value comes back in one for "
        f"{undo}"
    )


def _is_initial(comparison: Comparison, variable: Entity) -> bool:
    return sections.is_initial(comparison.patched.section(variable).name)


def storage_changed(comparison: Comparison) -> Iterator[Reason]:
    """``__init``, ``const``, ``__ro_after_init``, ``DEFINE_PER_CPU``, ``__aligned()`` come or go.

    The running one stays where it is: freed, read-only, once for all CPUs, or less aligned.
    """
    for patched, original in comparison.pairs.of_patched.items():
        if patched.kind not in NAMED:
            continue
        old, new = comparison.original.section(original), comparison.patched.section(patched)
        if old.alignment < new.alignment and _has_section(comparison, original, patched):
            text = f"is aligned to {old.alignment} bytes in the running kernel and would be to "
            text += f"{new.alignment}"
            yield Reason("storage-changed", original.name, text, SAME_STORAGE)
        if (old.name, old.flags) == (new.name, new.flags):
            continue
        before, after = (sections.storage(each.name, each.flags) for each in (old, new))
        if before != after:
            text = f"is {before} in the running kernel and would be {after}"
            yield Reason("storage-changed", original.name, text, SAME_STORAGE)


def _has_section(comparison: Comparison, original: Entity, patched: Entity) -> bool:
    """Whether a variable has its section for itself, so that its alignment is to be seen."""
    if patched.kind is not Kind.DATA or original.size != patched.size:
        return False
    sides = (comparison.original, original), (comparison.patched, patched)
    return all(unit.neighbours(each) == (None, None) for unit, each in sides)


def static_local_ambiguous(comparison: Comparison) -> Iterator[Reason]:
    """Two ``static int count`` of one size in one function: which is which is not to be seen."""
    needed = comparison.inclusion.copied
    for variable in comparison.pairs.ambiguous:
        if variable in needed:
            yield Reason(
                "static-local-ambiguous",
                variable.name,
                "may or may not be a static variable that exists already",
                "give the static variables of the function different names",
            )


def registration(comparison: Comparison) -> Iterator[Reason]:
    """Lists that are read at boot or load: ``module_param()``, trace events, initcalls."""
    for variable in comparison.new_data:
        section = comparison.patched.section(variable).name
        is_other = sections.is_copyable(section) or sections.is_initial(section)
        if is_other or sections.is_export(section):
            continue
        if variable in comparison.inclusion.copied and not sections.is_tracepoint(section):
            continue
        text = f"is a new entry of {section}, which is read at boot or load only"
        yield Reason("registration", variable.name, text, "leave it out of the fix")
    for variable in comparison.original.variables():
        section = comparison.original.section(variable).name
        if comparison.marks.ignores_section(section):
            continue
        gone = variable not in comparison.pairs.of_original and not variable.is_always_new
        plain = sections.is_copyable(section) or sections.is_initial(section)
        if gone and not plain and not sections.is_export(section):
            text = f"is an entry of {section} that the fix removes; it was read at boot or load"
            yield Reason("registration", variable.name, text, "leave it in its place")
