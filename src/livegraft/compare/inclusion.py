# SPDX-License-Identifier: GPL-2.0-or-later
"""What a payload has to bring along, and what it refers to in the running kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from livegraft.compare.entity import NAMED, Entity, Kind
from livegraft.compare.pairing import Pairs
from livegraft.compare.unit import Unit, Use


@dataclass(slots=True)
class Inclusion:
    """The parts of a patched object that a payload consists of.

    Args:
        functions: changed and new functions with their cold parts.
        changed: those that replace one of the original, without cold parts.
        copied: variables, strings, constants and snippets that they need a copy of.
        referred: functions and variables that they refer to in the running kernel.
    """

    functions: set[Entity] = field(default_factory=set)
    changed: set[Entity] = field(default_factory=set)
    copied: set[Entity] = field(default_factory=set)
    referred: set[Entity] = field(default_factory=set)

    @property
    def new_variables(self) -> list[Entity]:
        """Variables that start with their initial value, those aside that are always new."""
        return sorted(
            (each for each in self.copied if each.kind is Kind.DATA and not each.is_always_new),
            key=lambda each: each.number,
        )

    def is_included(self, entity: Entity) -> bool:
        """Whether the payload holds it."""
        return entity in self.functions or entity in self.copied

    def in_order(self) -> list[Entity]:
        """All that the payload holds but table entries, as in the object."""
        return sorted(self.functions | self.copied, key=lambda each: each.number)

    def means_original(self, unit: Unit, use: Use, owner: Entity) -> bool:
        """Whether a use of an included function means the original one.

        A pointer to a changed function may be compared with others or outlive the patch, so it
        stays what it was; ftrace leads each call through it to the new code. Direct calls and
        jumps, places inside of a function, and table entries mean the new code.

        Args:
            owner: what the use is a part of.
        """
        if not isinstance(use.target, Entity) or use.target not in self.changed:
            return False
        if owner.kind is Kind.ENTRY or unit.is_branch(use, owner.section):
            return False
        is_code = unit.section(owner).is_code
        return use.delta + (unit.arch.pc_relative.get(use.type, 0) if is_code else 0) == 0


def include(
    unit: Unit, changed: Collection[Entity], new: Collection[Entity], pairs: Pairs
) -> Inclusion:
    """Follow all references from the changed and new functions.

    Args:
        unit: the patched object.
    """
    result = Inclusion(changed=set(changed))
    work: list[Entity] = []
    for function in [*changed, *new]:
        _add_function(function, result, work)
    while work:
        entity = work.pop()
        for part in [entity, *entity.entries]:
            for use in unit.uses(part):
                if isinstance(use.target, Entity):
                    _follow(use.target, pairs, result, work.append)
    return result


def _add_function(function: Entity, result: Inclusion, work: list[Entity]) -> None:
    found = [function]
    while found:
        part = found.pop()
        if part not in result.functions:
            result.functions.add(part)
            work.append(part)
            found += part.parts


def _follow(
    target: Entity, pairs: Pairs, result: Inclusion, push: Callable[[Entity], None]
) -> None:
    if target in result.functions or target in result.copied or target.kind is Kind.ENTRY:
        return
    if target.kind in NAMED and (target in pairs.of_patched or target.kind is Kind.FUNCTION):
        result.referred.add(target)
        return
    result.copied.add(target)
    push(target)
