# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for types: what lies in memory already keeps its layout, what is called its prototype.

They need the debug information of both builds; objects without it are not judged here (the pipeline
compiles with it whenever a fix touches more than function bodies).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from livegraft.compare.comparison import Comparison
from livegraft.compare.declarations import Change, Declared, declared_differently
from livegraft.compare.types import Types, Variable, types_of
from livegraft.compare.wording import few
from livegraft.errors import Reason
from livegraft.verdict.marks import CORRECT

_OF_STRUCTURE = "leave it as it is, and keep what is new in a shadow variable (LIVEGRAFT_SHADOW)"
_OF_VARIABLE = "leave its type as it is, and add a variable of another name with the new type"


@dataclass(slots=True)
class _Found:
    """A change as all units see it."""

    details: tuple[str, ...]
    is_variable: bool
    users: set[str] = field(default_factory=set)
    followers: set[str] = field(default_factory=set)
    units: list[str] = field(default_factory=list)


class TypesOfUnits:
    """What the units of a fix say of types, taken in some at a time; little of each is kept."""

    def __init__(self) -> None:
        self._declared: dict[str, Declared] = {}
        self._accepted: frozenset[str] = frozenset()
        self._is_known = False

    def add(self, comparisons: Mapping[str, Comparison]) -> None:
        """Take in what units say.

        Args:
            comparisons: by the units' names.

        Raises:
            ElfError: debug information is malformed.
        """
        for unit, each in comparisons.items():
            self._declared[unit] = _declared(each)
            self._accepted |= each.marks.accepted_layouts
            self._is_known = self._is_known or types_of(each.patched) is not None

    def reasons(self, *, is_all: bool) -> tuple[list[Reason], list[str]]:
        """The reasons and warnings that types give, each once however many units see it.

        Args:
            is_all: whether all units were taken in.
        """
        declared = self._declared
        reasons = [*_layout(declared, self._accepted), *_values(declared), *_prototype(declared)]
        if self._is_known and is_all:
            reasons += _accepted_in_vain(declared, self._accepted)
        remarks = [remark for each in declared.values() for remark in each.remarks]
        return reasons, list(dict.fromkeys(remarks))


def type_reasons(comparisons: Mapping[str, Comparison]) -> tuple[list[Reason], list[str]]:
    """:class:`TypesOfUnits`, of units that are all there.

    Args:
        comparisons: by the units' names.

    Raises:
        ElfError: debug information is malformed.
    """
    found = TypesOfUnits()
    found.add(comparisons)
    return found.reasons(is_all=True)


def _declared(comparison: Comparison) -> Declared:
    before, after = types_of(comparison.original), types_of(comparison.patched)
    if before is None or after is None:
        return Declared()
    return declared_differently(before, after, _static_locals(comparison, before, after))


def _static_locals(
    comparison: Comparison, before: Types, after: Types
) -> Iterator[tuple[Variable, Variable]]:
    """Static variables of functions that live on."""
    for patched, original in comparison.pairs.of_patched.items():
        old = before.static_locals.get((original.section, original.value))
        new = after.static_locals.get((patched.section, patched.value))
        if old is not None and new is not None:
            yield old, new


def _layout(declared: Mapping[str, Declared], accepted: Collection[str]) -> Iterator[Reason]:
    """A member more in ``struct ext4_inode_info``: old code allocated too little for it.

    Args:
        accepted: types that the fix's author vouches for (``LIVEGRAFT_ACCEPT_LAYOUT``).
    """
    for name, found in _merged({unit: each.layouts for unit, each in declared.items()}):
        remedy = _OF_VARIABLE if found.is_variable else _OF_STRUCTURE
        if name in accepted:
            for follower in sorted(found.followers):
                if follower not in accepted:
                    text = f"changes with {name}, which alone is accepted"
                    yield Reason("structure-layout", follower, text, remedy)
            continue
        yield Reason("structure-layout", name, _text(found), remedy)


def _accepted_in_vain(
    declared: Mapping[str, Declared], accepted: Collection[str]
) -> Iterator[Reason]:
    """``LIVEGRAFT_ACCEPT_LAYOUT(struct foo)``, and ``struct foo`` lies as before."""
    changes = [change for each in declared.values() for change in each.layouts]
    changed = {name for change in changes for name in (change.name, *change.followers)}
    for name in sorted(set(accepted) - changed):
        text = "is marked LIVEGRAFT_ACCEPT_LAYOUT, and its layout does not change"
        yield Reason("mark-target", name, text, CORRECT)


def _values(declared: Mapping[str, Declared]) -> Iterator[Reason]:
    """Running code and data know the old number of ``SYSCTL_ONE``."""
    for name, found in _merged({unit: each.values for unit, each in declared.items()}):
        remedy = "put new values behind the existing ones"
        yield Reason("enum-value-changed", name, _text(found), remedy)


def _prototype(declared: Mapping[str, Declared]) -> Iterator[Reason]:
    """``ext4_iget()`` with an argument more: other units and modules call it as before."""
    for name, found in _merged({unit: each.prototypes for unit, each in declared.items()}):
        remedy = "keep it, and add a function under another name for the changed functions to call"
        yield Reason("prototype-changed", name, _text(found), remedy)


def _merged(changes: Mapping[str, tuple[Change, ...]]) -> list[tuple[str, _Found]]:
    found: dict[str, _Found] = {}
    for unit, listed in changes.items():
        for change in listed:
            each = found.setdefault(change.name, _Found(change.details, change.is_variable))
            each.users |= change.users
            each.followers.update(change.followers)
            each.units.append(unit)
    return sorted(found.items())


def _text(found: _Found) -> str:
    users = sorted(found.users, key=lambda name: ("trace_" in name or name[0] == "_", name))
    parts = [
        few(found.details, "differences", "; "),
        *([f"with it changes {few(sorted(found.followers))}"] if found.followers else []),
        *([f"used by {few([f'{name}()' for name in users])}"] if users else []),
        *([f"seen in {few(found.units)}"] if len(found.units) > 1 else []),
    ]
    return "; ".join(parts)
