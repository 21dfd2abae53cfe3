# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the compiler has inlined the same functions in two builds of one source.

The unit is compared in another build than the one that was shipped. If that build called a
function which the shipped one has inlined, a new version of it would not reach that caller.
"""

from __future__ import annotations

from collections import Counter

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.unit import Unit


def called_otherwise(shipped: Unit, compared: Unit) -> tuple[str, ...]:
    """The functions that only one of two builds has, or that call others in one than in the other.

    Args:
        shipped: the unit as it was shipped.
        compared: the unit as it is compared, before the fix.
    """
    first, second = _calls(shipped), _calls(compared)
    names = first.keys() | second.keys()
    return tuple(sorted(name for name in names if first.get(name) != second.get(name)))


def _calls(unit: Unit) -> dict[str, Counter[str]]:
    """What each function that is not gone calls, cold parts counted with it, and how often."""
    calls: dict[str, Counter[str]] = {}
    for function in unit.functions():
        if sections.is_initial(unit.section(function).name):
            continue
        found = calls.setdefault(function.top.name, Counter())
        for use in unit.uses(function):
            if not unit.is_branch(use, function.section):
                continue
            if not isinstance(use.target, Entity):
                found[use.target] += 1
            elif use.target.kind is Kind.FUNCTION and use.target.top is not function.top:
                found[use.target.name] += 1
    return calls
