# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare two objects of one unit: what changed, what is new, what is gone, and what forbids it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from livegraft.compare.lines import is_line_change
from livegraft.compare.pairing import Pairs, pair
from livegraft.compare.unit import Entity, Entry, Kind, UnitView, Use
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.object import ElfObject
from livegraft.errors import Reason


class Verdict(StrEnum):
    """What a comparison says."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(slots=True)
class Comparison:
    """Two objects, compared.

    Args:
        original: the object before the fix.
        patched: the object after it.
        pairs: which is which.
        changed: functions of the patched object that differ; a part's change is its parent's.
        new: functions that only the patched object has.
        removed: functions that only the original has.
        changed_data: variables of the patched object whose initial value or size differs.
        warnings: what the user should know although it is no reason to refuse.
        reasons: why it cannot be applied live, all of them.
    """

    original: UnitView
    patched: UnitView
    pairs: Pairs
    changed: list[Entity] = field(default_factory=list)
    new: list[Entity] = field(default_factory=list)
    removed: list[Entity] = field(default_factory=list)
    changed_data: list[Entity] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Changed, unchanged or refused."""
        if self.reasons:
            return Verdict.REFUSED
        return Verdict.CHANGED if self.changed or self.new or self.removed else Verdict.UNCHANGED

    def original_of(self, patched: Entity) -> Entity | None:
        """The original's entity that this one is."""
        return self.pairs.of_patched.get(patched)

    def as_json(self) -> dict[str, object]:
        """The document of ``livegraft compare``."""
        changed = [self.original_of(each) or each for each in self.changed]
        return {
            "verdict": self.verdict.value,
            "changed": sorted(each.name for each in changed),
            "new": sorted(each.name for each in self.new),
            "removed": sorted(each.name for each in self.removed),
            "warnings": list(self.warnings),
            "reasons": [reason.as_json() for reason in self.reasons],
        }


def compare_objects(original: ElfObject, patched: ElfObject) -> Comparison:
    """Compare two raw objects of one unit, compiled with a section per function and variable.

    The result has no reasons yet: :func:`livegraft.verdict.judge.judge` finds them.

    Raises:
        ElfError: an object is not of that kind.
    """
    before, after = UnitView(original, "original object"), UnitView(patched, "patched object")
    comparison = Comparison(before, after, pair(before, after))
    _compare_functions(comparison)
    _compare_data(comparison)
    return comparison


def _compare_functions(comparison: Comparison) -> None:
    meanings = Meanings(comparison)
    pairs = comparison.pairs
    changed, new = set(), set()
    for entity in comparison.patched.entities:
        if entity.kind is not Kind.FUNCTION:
            continue
        twin = pairs.of_patched.get(entity)
        if twin is None:
            new.add(entity)
        elif not meanings.same_function(twin, entity):
            changed.add(entity)
    for part in [each for each in changed | new if each.parent is not None]:
        # A cold part belongs to its function: what changed in it, changed there.
        if part.parent not in new:
            changed.add(_top(part))
        changed.discard(part)
        new.discard(part)
    gone = [
        each
        for each in comparison.original.entities
        if each.kind is Kind.FUNCTION and each not in pairs.of_original
    ]
    for part in gone:
        survivor = pairs.of_original.get(_top(part)) if part.parent is not None else None
        if survivor is not None:
            changed.add(survivor)
    order = {entity: number for number, entity in enumerate(comparison.patched.entities)}
    comparison.changed = sorted(changed, key=order.__getitem__)
    comparison.new = sorted(new, key=order.__getitem__)
    comparison.removed = [each for each in gone if each.parent is None]


def _top(part: Entity) -> Entity:
    while part.parent is not None:
        part = part.parent
    return part


def _compare_data(comparison: Comparison) -> None:
    meanings = Meanings(comparison)
    for entity in comparison.patched.named():
        twin = comparison.original_of(entity)
        if entity.kind is Kind.DATA and twin is not None and not meanings.same_data(twin, entity):
            comparison.changed_data.append(entity)


class Meanings:
    """What relocations mean, in terms that are the same for both objects."""

    def __init__(self, comparison: Comparison) -> None:
        self.views = (comparison.original, comparison.patched)
        self.pairs = comparison.pairs
        self._known: dict[tuple[int, Entity], Hashable] = {}

    def same_function(self, old: Entity, new: Entity) -> bool:
        """Whether two functions do the same, a moved line number aside."""
        if self._entries(0, old) != self._entries(1, new) or old.size != new.size:
            return False
        first, second = self._uses(0, old.uses, old), self._uses(1, new.uses, new)
        if first != second:
            return False
        before, after = self._bytes(0, old), self._bytes(1, new)
        return before == after or is_line_change(before, after, new)

    def same_data(self, old: Entity, new: Entity) -> bool:
        """Whether two variables start with the same value."""
        return (
            old.size == new.size
            and self._bytes(0, old) == self._bytes(1, new)
            and self._uses(0, old.uses, old) == self._uses(1, new.uses, new)
        )

    def of(self, side: int, use: Use) -> Hashable:
        """The meaning of a relocation."""
        target = use.target
        if isinstance(target, str):
            return ("external", target, use.delta)
        if target.kind is Kind.STRING:
            text = self.views[side].section(target).data[target.value + use.position : target.end]
            return ("string", text)
        return (self._identity(side, target), use.delta)

    def _identity(self, side: int, entity: Entity) -> Hashable:
        """The same for both of a pair; for what has no name or stands for a place, its content."""
        key = (side, entity)
        if key not in self._known:
            self._known[key] = "under way"  # what refers to itself is not followed twice
            self._known[key] = self._identify(side, entity)
        return self._known[key]

    def _identify(self, side: int, entity: Entity) -> Hashable:
        if entity.kind in (Kind.FUNCTION, Kind.DATA) and not entity.is_always_new:
            twin = entity if side == 0 else self.pairs.of_patched.get(entity)
            return ("paired", twin) if twin is not None else ("new", entity.name)
        name = entity.base if entity.is_always_new else ""
        if name in ("descriptor", "_entry", "__UNIQUE_ID_ddebug"):
            # struct _ddebug and struct pi_entry hold a line number.
            return ("place", name, tuple(self._uses(side, entity.uses, entity)))
        content = self._bytes(side, entity)
        return ("content", name, content, tuple(self._uses(side, entity.uses, entity)))

    def _uses(self, side: int, uses: list[Use] | tuple[Use, ...], base: Entity) -> list[Hashable]:
        lead = base.value - base.start
        return [(use.offset - lead, use.type, self.of(side, use)) for use in uses]

    def _bytes(self, side: int, entity: Entity) -> bytes:
        """An entity's bytes from its symbol on, relocations blanked."""
        view = self.views[side]
        code = bytearray(view.section(entity).data[entity.value : entity.end])
        lead = entity.value - entity.start
        for use in entity.uses:
            size = arch.RELOCATION_SIZES[use.type]
            at = use.offset - lead
            if at >= 0:
                code[at : at + size] = bytes(size)
        return bytes(code)

    def _entries(self, side: int, entity: Entity) -> list[tuple[Hashable, ...]]:
        """The table entries of a function, in an order of their own."""
        listed = [
            (entry.table, entry.place, self._entry_bytes(entry), self._entry_uses(side, entry))
            for entry in entity.entries
        ]
        return sorted(listed, key=lambda each: each[:3])

    def _entry_bytes(self, entry: Entry) -> bytes:
        data = bytearray(entry.data)
        ignored = [range(*each) for each in arch.TABLES[entry.table].ignored]
        fields = [range(u.offset, u.offset + arch.RELOCATION_SIZES[u.type]) for u in entry.uses]
        for each in [*ignored, *fields]:
            data[each.start : each.stop] = bytes(len(each))
        return bytes(data)

    def _entry_uses(self, side: int, entry: Entry) -> tuple[Hashable, ...]:
        # A place in the own function counts by its distance, not by the function's name.
        return tuple((use.offset, use.type, self.of(side, use)) for use in entry.uses)


def all_uses(entity: Entity) -> Iterator[Use]:
    """The relocations of an entity and of its table entries."""
    yield from entity.uses
    for entry in entity.entries:
        yield from entry.uses
