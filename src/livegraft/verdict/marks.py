# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for the marks of ``livegraft.h``: each has to mean something, and what it means is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from livegraft.compare import names
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity
from livegraft.compare.marks import Marks
from livegraft.compare.unit import Unit
from livegraft.errors import Reason

if TYPE_CHECKING:
    from livegraft.changeset import Decisions, SystemState

CORRECT = "name it as the source does, or take the mark out"


def mark_target(comparison: Comparison) -> Iterator[Reason]:
    """A mark without effect is a mistake: ``LIVEGRAFT_FORCE_CHANGED(foo)``, and there is no foo."""
    yield from _mark_target(comparison, _functions_before)


def mark_target_delivered(comparison: Comparison) -> Iterator[Reason]:
    """The same of what was cut out of a unit: a function that is left is declared there at most."""
    yield from _mark_target(comparison, lambda each: _names(each.original.functions()))


def _mark_target(
    comparison: Comparison, left: Callable[[Comparison], Collection[str]]
) -> Iterator[Reason]:
    """Args: left: the functions that can be marked ``LIVEGRAFT_IGNORE_FUNCTION``."""
    marks = comparison.marks
    for mark, wanted, known in (
        ("LIVEGRAFT_FORCE_CHANGED", marks.forced, _functions_before),
        ("LIVEGRAFT_IGNORE_FUNCTION", marks.ignored_functions, left),
    ):
        for name in sorted(wanted.difference(known(comparison))) if wanted else ():
            text = f"is marked {mark}, and the running kernel has no such function in this unit"
            yield Reason("mark-target", name, text, CORRECT)
    for name in sorted(marks.forced & marks.ignored_functions):
        text = "is marked LIVEGRAFT_FORCE_CHANGED and LIVEGRAFT_IGNORE_FUNCTION"
        yield Reason("mark-target", name, text, "take one of the two out")
    for name in sorted(marks.ignored_sections):
        if not any(_has_data(unit, name) for unit in (comparison.original, comparison.patched)):
            text = "is marked LIVEGRAFT_IGNORE_SECTION, and is no section of data of this unit"
            yield Reason("mark-target", name, text, CORRECT)
    for kind, function in marks.callbacks:
        if not isinstance(function, Entity) or function not in comparison.new_entities:
            name = function.name if isinstance(function, Entity) else function
            text = f"is a {kind} callback, and no new function of this file"
            remedy = "give the callback a function of its own, in the file with the mark"
            yield Reason("mark-target", name, text, remedy)


def state_conflict(units: Mapping[str, Marks]) -> Iterator[Reason]:
    """A patch has one version of a state: ``LIVEGRAFT_STATE(1, 1)`` here, ``(1, 2)`` there.

    Args:
        units: their marks, by their names.
    """
    versions: dict[int, tuple[int, str]] = {}
    for unit, found in units.items():
        for state in found.states:
            version, other = versions.setdefault(state.id, (state.version, unit))
            if version != state.version:
                text = f"has version {version} in {other} and {state.version} in {unit}"
                remedy = "declare the state once, in a header that both files include"
                yield Reason("state-conflict", f"state {state.id:#x}", text, remedy)


def states_of(marks: Iterable[Marks]) -> tuple[SystemState, ...]:
    """The states that units declare together, by their marks."""
    return tuple(sorted({state for each in marks for state in each.states}))


def decisions_of(units: Iterable[Marks]) -> Decisions:
    """What the marks of all units say."""
    from livegraft.changeset import Decisions

    marks = list(units)

    def joined(listed: Iterable[Iterable[str]]) -> tuple[str, ...]:
        return tuple(sorted({each for some in listed for each in some}))

    return Decisions(
        joined(each.forced for each in marks),
        joined(each.ignored_functions for each in marks),
        joined(each.ignored_sections for each in marks),
        joined(each.accepted_layouts for each in marks),
    )


def what_marks_do(comparison: Comparison) -> Iterator[str]:
    """What is left out by the author's word: worth a warning whenever the patch is looked at."""
    marks = comparison.marks
    left = {names.base(each.name) for each in comparison.left}
    for name in sorted(marks.ignored_functions):
        does = "is changed by the fix and left as it is" if name in left else "does not differ"
        yield f"{name}: {does} (LIVEGRAFT_IGNORE_FUNCTION)"
    for name in sorted(marks.ignored_sections):
        yield f"{name}: its data are left as they are (LIVEGRAFT_IGNORE_SECTION)"
    for name in sorted(marks.accepted_layouts):
        yield f"{name}: its layout is taken for safe (LIVEGRAFT_ACCEPT_LAYOUT)"


def _functions_before(comparison: Comparison) -> set[str]:
    """Functions of both objects, as the compiler and as the source names them."""
    return _names(each for each in comparison.patched.functions() if comparison.original_of(each))


def _names(functions: Iterable[Entity]) -> set[str]:
    found = [each.name for each in functions]
    return {*found, *map(names.base, found)}


def _has_data(unit: Unit, name: str) -> bool:
    return any(
        name in (section.name, names.base(section.name))
        for section in unit.obj.sections
        if section.is_alloc and not section.is_code
    )
