# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare two objects of one unit: what changed, what is new, what is gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind, Oddity
from livegraft.compare.inclusion import Inclusion, include
from livegraft.compare.lines import is_line_change
from livegraft.compare.marks import Marks, marks_of
from livegraft.compare.meaning import Meanings
from livegraft.compare.pairing import Pairs, pair
from livegraft.compare.tracing import bring_along
from livegraft.compare.unit import Unit
from livegraft.elf.object import Binding, ElfObject
from livegraft.errors import ElfError, Reason


class Verdict(StrEnum):
    """What a comparison says."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Comparison(NamedTuple):
    """Two objects, compared.

    :func:`compare_objects` finds the facts; :func:`livegraft.verdict.judge.judge` adds the reasons
    for which they cannot be applied live. Nobody can ask for the verdict, or cut a payload, before
    the facts were judged.

    Args:
        original: the object before the fix.
        patched: the object after it.
        pairs: which is which.
        changed_entities: functions of the patched object that differ; what differs in a cold part
            differs in its function.
        new_entities: functions that only the patched object has, and changed ones that their
            callers bring along, for nothing can redirect them.
        removed_entities: functions that only the original has.
        changed_data: variables of the patched object whose initial value or size differs.
        new_data: variables that only the patched object has, whether they are needed or not.
        changed_sections: names of sections without symbols whose contents differ.
        oddities: what in either object is not understood.
        inclusion: what a payload has to hold.
        marks: what the fix says beside its code, followed in all of the above.
        left: functions of the patched object that differ and are left because of a mark.
        warnings: what the user should know although it is no reason to refuse.
        judgement: why it cannot be applied live; None before the facts were judged.
    """

    original: Unit
    patched: Unit
    pairs: Pairs
    changed_entities: tuple[Entity, ...]
    new_entities: tuple[Entity, ...]
    removed_entities: tuple[Entity, ...]
    changed_data: tuple[Entity, ...]
    new_data: tuple[Entity, ...]
    changed_sections: tuple[str, ...]
    oddities: tuple[Oddity, ...]
    inclusion: Inclusion
    marks: Marks
    left: tuple[Entity, ...] = ()
    warnings: tuple[str, ...] = ()
    judgement: tuple[Reason, ...] | None = None

    @property
    def verdict(self) -> Verdict:
        """Changed, unchanged or refused."""
        if self.reasons:
            return Verdict.REFUSED
        differs = self.changed_entities or self.new_entities or self.removed_entities
        return Verdict.CHANGED if differs else Verdict.UNCHANGED

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it cannot be applied live: all reasons.

        Raises:
            ValueError: the comparison was not judged.
        """
        if self.judgement is None:
            raise ValueError("the comparison has to be judged first: livegraft.verdict.judge")
        return self.judgement

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of changed functions, as the original object has them."""
        return _names(self.pairs.of_patched.get(each, each) for each in self.changed_entities)

    @property
    def new(self) -> tuple[str, ...]:
        """Names of new functions."""
        return _names(self.new_entities)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of removed functions."""
        return _names(self.removed_entities)

    @property
    def new_globals(self) -> frozenset[str]:
        """Names of new functions and variables that other units can refer to."""
        symbols = self.patched.obj.symbols
        return frozenset(
            each.name
            for each in (*self.new_entities, *self.new_data)
            if each.symbol and symbols[each.symbol].binding != Binding.LOCAL
        )

    def original_of(self, patched: Entity) -> Entity | None:
        """The original's entity that this one is."""
        return self.pairs.of_patched.get(patched)

    def judged(self, reasons: Iterable[Reason], warnings: Iterable[str]) -> Comparison:
        """The same facts with the reasons and warnings that follow from them."""
        return self._replace(
            judgement=tuple(dict.fromkeys(reasons)), warnings=tuple(dict.fromkeys(warnings))
        )

    def as_json(self) -> dict[str, object]:
        """The document of ``livegraft compare``."""
        return {
            "verdict": self.verdict.value,
            "changed": list(self.changed),
            "new": list(self.new),
            "removed": list(self.removed),
            "warnings": list(self.warnings),
            "reasons": [reason.as_json() for reason in self.reasons],
        }


def compare_objects(
    original: ElfObject, patched: ElfObject, *, moved: Collection[str] = ()
) -> Comparison:
    """Find what differs between two raw objects of one unit.

    Args:
        original: the unit before the fix, compiled with a section per function and variable.
        patched: the unit after it, compiled in the same way.
        moved: functions of the patched object that are known to differ in line numbers alone; what
            else than a constant in its code differs is a change all the same.

    Raises:
        ElfError: an object is of an architecture that is not known, or the two differ.
    """
    before = Unit(original, "original object")
    after = Unit(patched, "patched object", before.decoded)
    if before.arch != after.arch:
        problem = f"is for {after.arch.name}, the original object for {before.arch.name}"
        raise ElfError("patched object", problem, "compare two builds for the same machine")
    pairs = pair(before, after)
    meanings = Meanings(before, after, pairs)
    marks = marks_of(after)
    differing, new, removed = _compare_functions(before, after, pairs, meanings, marks, moved)
    changed, left = _marked(differing, after, pairs, marks)

    def is_watched(variable: Entity) -> bool:
        return not marks.ignores_section(after.section(variable).name)

    return Comparison(
        before,
        after,
        pairs,
        changed,
        new,
        removed,
        tuple(each for each in _changed_data(after, pairs, meanings) if is_watched(each)),
        tuple(each for each in after.variables() if _is_new(each, pairs) and is_watched(each)),
        tuple(
            name
            for name in _changed_sections(before, after, meanings)
            if not marks.ignores_section(name)
        ),
        tuple(before.oddities + after.oddities),
        include(after, changed, new, pairs),
        marks,
        left,
    )


def differing_in_constants(comparison: Comparison) -> frozenset[str]:
    """The changed functions of the patched object that differ in constants in their code alone."""
    pairs = comparison.pairs
    meanings = Meanings(comparison.original, comparison.patched, pairs)
    found = set()
    for function in comparison.changed_entities:
        parts = [(pairs.of_patched.get(each), each) for each in (function, *function.parts)]
        original = parts[0][0]
        if (
            original is not None
            and len(original.parts) == len(function.parts)
            and all(old is not None and _is_alike(old, new, meanings) for old, new in parts)
        ):
            found.add(function.name)
    return frozenset(found)


def _marked(
    differing: tuple[Entity, ...], after: Unit, pairs: Pairs, marks: Marks
) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """The functions to take as changed, and those that differ and are left."""
    left = {each for each in differing if marks.is_ignored(each)}
    forced = {
        each.top
        for each in after.functions()
        if marks.is_forced(each) and each.top in pairs.of_patched
    }
    return _by_place((set(differing) - left) | forced), _by_place(left)


def _names(entities: Iterable[Entity]) -> tuple[str, ...]:
    return tuple(sorted(each.name for each in entities))


def _is_new(entity: Entity, pairs: Pairs) -> bool:
    return entity not in pairs.of_patched and not entity.is_always_new


def _compare_functions(
    before: Unit,
    after: Unit,
    pairs: Pairs,
    meanings: Meanings,
    marks: Marks,
    moved: Collection[str],
) -> tuple[tuple[Entity, ...], tuple[Entity, ...], tuple[Entity, ...]]:
    changed: set[Entity] = set()
    new: set[Entity] = set()
    for entity in after.functions():
        twin = pairs.of_patched.get(entity)
        if twin is None:
            new.add(entity)
        elif not _is_same_function(twin, entity, after, meanings, moved):
            changed.add(entity)
    for part in [each for each in changed | new if each.parent is not None]:
        # A cold part belongs to its function: what changed in it, changed there.
        if part.top not in new:
            changed.add(part.top)
        changed.discard(part)
        new.discard(part)
    gone = [each for each in before.functions() if each not in pairs.of_original]
    for part in gone:
        survivor = pairs.of_original.get(part.top) if part.parent is not None else None
        if survivor is not None:
            changed.add(survivor)
    if not any(marks.is_ignored(each) for each in changed):
        new |= bring_along(before, after, pairs, changed)
    return (
        _by_place(changed),
        _by_place(new),
        tuple(each for each in gone if each.parent is None),
    )


def _by_place(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    return tuple(sorted(entities, key=lambda each: each.number))


def _is_same_function(
    old: Entity, new: Entity, after: Unit, meanings: Meanings, moved: Collection[str]
) -> bool:
    """Whether two functions do the same, a moved line number aside."""
    if not _is_alike(old, new, meanings):
        return False
    first, second = meanings.code(0, old), meanings.code(1, new)
    return first == second or new.top.name in moved or is_line_change(first, second, after, new)


def _is_alike(old: Entity, new: Entity, meanings: Meanings) -> bool:
    """Whether two functions are the same but for the bytes of their code."""
    return (
        old.size == new.size
        and meanings.relocations(0, old) == meanings.relocations(1, new)
        and meanings.have_same_entries(old, new)
        and meanings.local_entry(0, old) == meanings.local_entry(1, new)
    )


def _changed_data(after: Unit, pairs: Pairs, meanings: Meanings) -> Iterable[Entity]:
    for entity in after.variables():
        twin = pairs.of_patched.get(entity)
        name = after.section(entity).name
        if twin is None or sections.is_export(name):
            continue
        if (
            twin.size != entity.size
            or meanings.relocations(0, twin) != meanings.relocations(1, entity)
            or meanings.code(0, twin) != meanings.code(1, entity)
        ):
            yield entity


def _changed_sections(before: Unit, after: Unit, meanings: Meanings) -> Iterable[str]:
    """Sections without symbols that differ; what code refers to was compared with it."""
    contents: list[dict[str, list[tuple[bytes, bytes]]]] = []
    for side, unit in enumerate((before, after)):
        found: dict[str, list[tuple[bytes, bytes]]] = {}
        for entity in unit.entities:
            if entity.kind is Kind.ANONYMOUS:
                content = (meanings.code(side, entity), meanings.relocations(side, entity))
                found.setdefault(unit.section(entity).name, []).append(content)
        contents.append(found)
    for name in sorted(contents[0].keys() | contents[1].keys()):
        is_constant = name.startswith(".rodata")
        if not is_constant and contents[0].get(name) != contents[1].get(name):
            yield name
