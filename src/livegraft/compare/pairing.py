# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function or variable of the patched unit is which of the original.

Names decide, but for what the compiler numbers: clones (``foo.constprop.0``) and static locals
(``count.12``) get other numbers when something else comes or goes. A wrong pair would exchange two
counters, or one specialisation of a function for another. So numbered names are paired only where
there is no choice, or where content (clones) or the functions that use them (static locals) leave
none. What stays unpaired is new on one side and gone on the other, and whoever refers to it has
changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from livegraft.compare.unit import Entity, Kind, UnitView


@dataclass(slots=True)
class Pairs:
    """Pairs of entities.

    Args:
        of_patched: patched entity -> original one.
        of_original: original entity -> patched one.
        ambiguous: patched variables that may or may not be one of the original's.
    """

    of_patched: dict[Entity, Entity] = field(default_factory=dict)
    of_original: dict[Entity, Entity] = field(default_factory=dict)
    ambiguous: list[Entity] = field(default_factory=list)

    def add(self, original: Entity, patched: Entity) -> None:
        """Two that are one."""
        self.of_patched[patched] = original
        self.of_original[original] = patched


def pair(original: UnitView, patched: UnitView) -> Pairs:
    """Pair the functions and variables of two objects of one unit."""
    pairs = Pairs()
    groups: dict[tuple[Kind, str], tuple[list[Entity], list[Entity]]] = defaultdict(
        lambda: ([], [])
    )
    for side, view in enumerate((original, patched)):
        for entity in view.named():
            if not entity.is_always_new:
                groups[entity.kind, _family(entity)][side].append(entity)
    users = (_users(original), _users(patched))
    for (kind, _), (old, new) in groups.items():
        exact = {entity.name: entity for entity in old if entity.name == entity.base}
        for entity in list(new):
            twin = exact.get(entity.name)
            if twin is not None and twin.is_global == entity.is_global:
                pairs.add(twin, entity)
                old.remove(twin)
                new.remove(entity)
        if kind is Kind.FUNCTION:
            _pair_clones(old, new, original, patched, pairs)
        else:
            _pair_statics(old, new, users, pairs)
    return pairs


def _family(entity: Entity) -> str:
    """The name without numbers, but with the kind of clone: isra and constprop never mix."""
    return ".".join(part for part in entity.name.split(".") if not part.isdigit())


def _pair_clones(
    old: list[Entity], new: list[Entity], before: UnitView, after: UnitView, pairs: Pairs
) -> None:
    def code(view: UnitView) -> Callable[[Entity], Hashable]:
        return lambda each: (_masked(view, each), tuple(use.offset for use in each.uses))

    _pair_unique(old, new, code(before), code(after), pairs)
    if len(old) == len(new) == 1:
        pairs.add(old[0], new[0])


def _pair_statics(
    old: list[Entity],
    new: list[Entity],
    users: tuple[dict[Entity, frozenset[str]], dict[Entity, frozenset[str]]],
    pairs: Pairs,
) -> None:
    def key(side: int) -> Callable[[Entity], Hashable]:
        return lambda each: (each.size, users[side].get(each, frozenset()))

    _pair_unique(old, new, key(0), key(1), pairs)
    if len(old) == len(new) and all(
        key(0)(first) == key(1)(second) for first, second in _in_order(old, new)
    ):
        # Several of one name in one function (inner blocks): GCC numbers them as declared.
        for first, second in _in_order(old, new):
            pairs.add(first, second)
        return
    if len(old) == len(new) == 1:
        shared = users[0].get(old[0], frozenset()) & users[1].get(new[0], frozenset())
        if shared and old[0].size == new[0].size:
            pairs.add(old[0], new[0])
            return
    if old:
        pairs.ambiguous.extend(new)


def _in_order(old: list[Entity], new: list[Entity]) -> Iterable[tuple[Entity, Entity]]:
    return zip(sorted(old, key=_number), sorted(new, key=_number), strict=True)


def _number(entity: Entity) -> int:
    last = entity.name.rsplit(".", 1)[-1]
    return int(last) if last.isdigit() else -1


def _pair_unique(
    old: list[Entity],
    new: list[Entity],
    old_key: Callable[[Entity], Hashable],
    new_key: Callable[[Entity], Hashable],
    pairs: Pairs,
) -> None:
    """Pair those whose key occurs once on each side; they leave the lists."""
    table: dict[Hashable, tuple[list[Entity], list[Entity]]] = defaultdict(lambda: ([], []))
    for entity in old:
        table[old_key(entity)][0].append(entity)
    for entity in new:
        table[new_key(entity)][1].append(entity)
    for first, second in table.values():
        if len(first) == len(second) == 1:
            pairs.add(first[0], second[0])
            old.remove(first[0])
            new.remove(second[0])


def _masked(view: UnitView, entity: Entity) -> bytes:
    from livegraft.elf.arch import x86_64 as arch

    code = bytearray(view.code(entity))
    for use in entity.uses:
        code[use.offset : use.offset + arch.RELOCATION_SIZES[use.type]] = bytes(
            arch.RELOCATION_SIZES[use.type]
        )
    return bytes(code)


def _users(view: UnitView) -> dict[Entity, frozenset[str]]:
    """The functions that refer to each variable, by name without suffixes."""
    found: dict[Entity, set[str]] = defaultdict(set)
    for entity in view.named():
        if entity.kind is Kind.FUNCTION:
            uses = [*entity.uses, *(use for entry in entity.entries for use in entry.uses)]
            for use in uses:
                if isinstance(use.target, Entity) and use.target.kind is Kind.DATA:
                    found[use.target].add(entity.base)
    return {entity: frozenset(names) for entity, names in found.items()}
