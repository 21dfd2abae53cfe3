# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether two builds of one function are the same code that means the same.

Both builds were compared with one original object, so what each refers to can be named alike:
something of the running kernel's unit, something of another unit, or something that the payload
brings. What a payload brings is the same if its contents are; a function or a constant that one
side brings and the other leaves in the running kernel is the same if it is a copy of that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from operator import itemgetter

from livegraft.compare import names
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.inclusion import Inclusion
from livegraft.compare.meaning import without_line
from livegraft.compare.pairing import Pairs
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64
from livegraft.elf.header import SectionFlag

FIRST, SECOND, RUNNING = 0, 1, 2
"""The sides: two builds, and the running kernel's unit."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a reference leads to in the running kernel's unit."""

    entity: Entity


Meaning = Running | Entity | str
"""Something of the running kernel's unit, of the payload, or a symbol of another unit."""


@dataclass(frozen=True, slots=True)
class _Side:
    unit: Unit
    pairs: Pairs
    inclusion: Inclusion


@dataclass(frozen=True, slots=True)
class Row:
    """A function of the payloads.

    Args:
        name: as the compiler named it.
        entities: it in each build; None in one that has no such function.
        brought: whether each build's payload brings it.
        replaces: whether each payload brings it in place of the running kernel's.
    """

    name: str
    entities: tuple[Entity | None, Entity | None]
    brought: tuple[bool, bool]
    replaces: tuple[bool, bool]

    @property
    def pair(self) -> tuple[Entity, Entity] | None:
        """It in both builds, if it is in both."""
        first, second = self.entities
        return (first, second) if first is not None and second is not None else None


class Sides:
    """Two builds of a unit, each compared with the same original.

    Args:
        first: a comparison of the original with one build.
        second: with the other.
        known: names of functions that were compared elsewhere; None for all of the payloads.
    """

    def __init__(
        self, first: Comparison, second: Comparison, known: Collection[str] | None = None
    ) -> None:
        if first.original is not second.original:
            raise ValueError("both builds have to be compared with one original")
        original = first.original
        self._known = None if known is None else {names.family(each) for each in known}
        self._sides = (
            *(_Side(each.patched, each.pairs, each.inclusion) for each in (first, second)),
            _Side(original, Pairs(), Inclusion()),
        )
        self._named = {
            original.obj.symbols[number].name: each
            for each in original.entities
            if each.kind in NAMED
            for number in (each.symbol, *each.aliases)
        }

    def unit(self, side: int) -> Unit:
        """The unit of a side."""
        return self._sides[side].unit

    def brings(self, side: int, entity: Entity) -> bool:
        """Whether a side's payload holds something."""
        return self._sides[side].inclusion.is_included(entity)

    def is_known(self, function: Entity) -> bool:
        """Whether a function of the payloads is compared by itself."""
        return self._known is None or names.family(function.name) in self._known

    def rows(self) -> list[Row]:
        """All functions that either payload brings, by name."""
        tops = [self._tops(side) for side in (FIRST, SECOND)]
        rows = []
        for family in dict.fromkeys((*tops[0], *tops[1])):
            found = [list(each.get(family, ())) for each in tops]
            for at in range(max(map(len, found))):
                here = [each[at] if at < len(each) else None for each in found]
                brought = (here[0] is not None, here[1] is not None)
                name = next(each.name for each in here if each is not None)
                for side in (FIRST, SECOND):
                    if here[side] is None and len(found[1 - side]) == 1:
                        here[side] = self.function(side, name)
                first, second = (
                    each in side.inclusion.changed
                    for each, side in zip(here, self._sides, strict=False)
                )
                rows.append(Row(name, (here[0], here[1]), brought, (first, second)))
        return sorted(rows, key=lambda each: each.name)

    def _tops(self, side: int) -> dict[str, list[Entity]]:
        found: dict[str, list[Entity]] = defaultdict(list)
        functions = {each.top for each in self._sides[side].inclusion.functions}
        for each in sorted(functions, key=lambda each: each.number):
            found[names.family(each.name)].append(each)
        return found

    def function(self, side: int, name: str) -> Entity | None:
        """A function of a side by its name."""
        functions = self._sides[side].unit.functions()
        return next((each for each in functions if each.name == name), None)

    def meaning(self, side: int, use: Use, owner: Entity) -> Meaning:
        """What a relocation leads to.

        Args:
            owner: what it is a part of.
        """
        here, target = self._sides[side], use.target
        if isinstance(target, str):
            found = self._named.get(target)
            return target if found is None else Running(found)
        if side == RUNNING:
            return Running(target) if target.kind in NAMED and not target.is_always_new else target
        if here.inclusion.means_original(here.unit, use, owner):
            return Running(here.pairs.of_patched[target])
        if not here.inclusion.is_included(target) and target.kind in NAMED:
            original = here.pairs.of_patched.get(target)
            if original is not None:
                return Running(original)
        return target

    def text(self, meaning: Meaning, side: int) -> str:
        """What to call a meaning."""
        if isinstance(meaning, str):
            return meaning
        if isinstance(meaning, Running):
            return meaning.entity.name
        if meaning.kind is Kind.STRING:
            text = self.unit(side).masked(meaning).rstrip(b"\0").decode("latin-1")
            return repr(text)
        return meaning.name or self.unit(side).section(meaning).name

    def entry_code(self, side: int, entry: Entity) -> bytes:
        """What a table's entry says beside its references, a line number left out."""
        unit = self.unit(side)
        data, table = unit.masked(entry), unit.arch.table_of(entry.name)
        if table is not None and table.ignored:
            blank = bytes(len(table.ignored))
            data = data[: table.ignored.start] + blank + data[table.ignored.stop :]
        return data[: table.length] if table is not None and table.length else data

    def entry_uses(self, side: int, entry: Entity) -> list[Use]:
        """What a table's entry refers to, the place that it speaks of aside.

        An alternative without instructions refers to whatever follows in their section.
        """
        unit = self.unit(side)
        uses = list(unit.uses(entry))[1:]
        data = unit.masked(entry)
        length_at = x86_64.REPLACED_LENGTH_AT.get(len(data))
        if entry.name == x86_64.ALTERNATIVES and length_at is not None and not data[length_at + 1]:
            return []  # struct alt_instr: u8 instrlen, u8 replacementlen
        return uses

    def is_same_use(self, use: Use, owner: Entity, other: Use, another: Entity) -> bool:
        """Whether two references mean the same, wherever they are."""
        same = self.unit(FIRST).arch.same_meaning
        kinds = [same.get(each.type, each.type) for each in (use, other)]
        if kinds[0] != kinds[1] or use.delta != other.delta:
            return False
        return _Check(self).is_same_meaning(use, owner, other, another)

    def mismatch(self, first: Entity, second: Entity) -> str:
        """Where two functions differ first; empty if they are the same."""
        return _Check(self).function(FIRST, first, SECOND, second)


class _Check:
    """One question whether two things are the same; what was asked is taken for so meanwhile."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._asked: set[tuple[int, Entity, int, Entity]] = set()

    def function(self, a: int, first: Entity, b: int, second: Entity) -> str:
        if first.size != second.size:
            return f"{first.name} has {first.size} bytes and {second.size}"
        return self._contents(a, first, b, second) or self._entries(a, first, b, second)

    def _contents(self, a: int, first: Entity, b: int, second: Entity) -> str:
        one, two = (
            without_line(self._sides.unit(side), each) for side, each in ((a, first), (b, second))
        )
        name = first.name or self._sides.unit(a).section(first).name
        if one != two:
            pairs = zip(one, two, strict=False)
            at = next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), len(one))
            return f"{name} differs at +{at:#x}"
        uses = (list(self._sides.unit(a).uses(first)), list(self._sides.unit(b).uses(second)))
        if len(uses[0]) != len(uses[1]):
            return f"{name} has {len(uses[0])} relocations and {len(uses[1])}"
        for use, other in zip(*uses, strict=True):
            told = self._use(a, first, use, b, second, other)
            if told:
                return f"{name}+{use.offset - first.value:#x}: {told}"
        return ""

    def _use(self, a: int, first: Entity, use: Use, b: int, second: Entity, other: Use) -> str:
        same = self._sides.unit(a).arch.same_meaning
        here, there = (
            (each.offset - owner.value, same.get(each.type, each.type), each.delta)
            for each, owner in ((use, first), (other, second))
        )
        meanings = self._sides.meaning(a, use, first), self._sides.meaning(b, other, second)
        called = [self._sides.text(*each) for each in zip(meanings, (a, b), strict=True)]
        if here != there:
            return f"a reference to {called[0]} and one to {called[1]}"
        is_branch = self._sides.unit(a).is_branch(use, first.section)
        if self._is_same_meaning(a, meanings[0], b, meanings[1], is_branch):
            return ""
        return f"{called[0]} and {called[1]}"

    def is_same_meaning(self, use: Use, owner: Entity, other: Use, another: Entity) -> bool:
        one = self._sides.meaning(FIRST, use, owner)
        two = self._sides.meaning(SECOND, other, another)
        is_branch = self._sides.unit(FIRST).is_branch(use, owner.section)
        return self._is_same_meaning(FIRST, one, SECOND, two, is_branch)

    def _is_same_meaning(self, a: int, one: Meaning, b: int, two: Meaning, is_branch: bool) -> bool:
        if isinstance(one, str) or isinstance(two, str):
            return one == two
        if isinstance(one, Running) and isinstance(two, Running):
            return one.entity is two.entity
        if isinstance(one, Running):
            assert isinstance(two, Entity)
            return self._is_copy(one.entity, b, two, is_branch)
        if isinstance(two, Running):
            return self._is_copy(two.entity, a, one, is_branch)
        return self._is_same(a, one, b, two)

    def _is_copy(self, original: Entity, side: int, copy: Entity, is_branch: bool) -> bool:
        """Whether something does what the running kernel's does; only code and constants can."""
        if original.kind is Kind.FUNCTION and not is_branch:
            return False
        flags = int(self._sides.unit(side).section(copy).flags)
        if copy.kind is Kind.DATA and flags & SectionFlag.WRITE:
            return False
        return original.kind is copy.kind and self._is_same(RUNNING, original, side, copy)

    def _is_same(self, a: int, first: Entity, b: int, second: Entity) -> bool:
        key = (a, first, b, second)
        if key in self._asked:
            return True
        self._asked.add(key)
        if first.kind is not second.kind:
            return False
        if first.kind is Kind.FUNCTION:
            return names.family(first.name) == names.family(second.name) and (
                self._is_row(a, first, b, second) or not self.function(a, first, b, second)
            )
        is_alike = first.kind is not Kind.DATA or self._is_alike(a, first, b, second)
        return is_alike and not self._contents(a, first, b, second)

    def _is_row(self, a: int, first: Entity, b: int, second: Entity) -> bool:
        """Whether both are functions of the payloads, which are compared by themselves."""
        return all(
            side != RUNNING
            and each.parent is None
            and self._sides.brings(side, each)
            and self._sides.is_known(each)
            for side, each in ((a, first), (b, second))
        )

    def _is_alike(self, a: int, first: Entity, b: int, second: Entity) -> bool:
        """Whether two variables have the same name and may both be written, or neither."""
        flags = [
            int(self._sides.unit(side).section(each).flags) & SectionFlag.WRITE
            for side, each in ((a, first), (b, second))
        ]
        same = names.family(first.name) == names.family(second.name)
        return same and flags[0] == flags[1]

    def _entries(self, a: int, first: Entity, b: int, second: Entity) -> str:
        """Whether the same entries of tables speak of two functions, as the kernel reads them."""
        found = [list(self._listed(side, each)) for side, each in ((a, first), (b, second))]
        if [each[:3] for each in found[0]] != [each[:3] for each in found[1]]:
            odd = {each[:3] for each in found[0]} ^ {each[:3] for each in found[1]}
            called = ", ".join(sorted({name for name, _, _ in odd})) or "in another order"
            return f"{first.name} has other entries in tables ({called})"
        for (name, _, _, entry), (*_, other) in zip(*found, strict=True):
            uses = [self._sides.entry_uses(s, e) for s, e in ((a, entry), (b, other))]
            if len(uses[0]) != len(uses[1]):
                return f"{first.name} has other references in {name}"
            for use, another in zip(*uses, strict=True):
                if self._is_own(use, first, another, second):
                    continue  # wherever the function is brought to, its entries go with it
                if told := self._use(a, entry, use, b, other, another):
                    return f"{first.name}, {name}: {told}"
        return ""

    def _is_own(self, use: Use, first: Entity, other: Use, second: Entity) -> bool:
        """Whether two references of entries lead to one place in the functions that they are of."""
        same = self._sides.unit(FIRST).arch.same_meaning
        kinds = {same.get(each.type, each.type) for each in (use, other)}
        is_inside = use.target is first and other.target is second
        return is_inside and len(kinds) == 1 and use.delta == other.delta

    def _listed(self, side: int, function: Entity) -> Iterator[tuple[str, int, bytes, Entity]]:
        """Table, place, contents and entry; those of one place in the table's order."""
        unit = self._sides.unit(side)
        found = []
        for entry in function.entries:
            data = self._sides.entry_code(side, entry)
            found.append((entry.name, unit.place(entry), data, entry))
        yield from sorted(found, key=itemgetter(0, 1))
