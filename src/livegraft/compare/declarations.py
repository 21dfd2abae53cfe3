# SPDX-License-Identifier: GPL-2.0-or-later
"""What two builds of a unit declare differently: layouts, values, prototypes.

Only what both builds have is compared: a new structure is nobody's memory yet, and one that a
build declares only (``struct foo;``) has no layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from livegraft.compare.spelling import Member
from livegraft.compare.types import Structure, Types, Variable
from livegraft.compare.wording import few


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is declared differently.

    Args:
        name: what: ``struct inode``, ``enum pid_type``, ``ext4_iget``.
        details: what about it, in words.
        users: functions of the original that use it.
        followers: structures that change only because they hold it.
        is_variable: whether it is a variable, not a type or a function.
    """

    name: str
    details: tuple[str, ...]
    users: frozenset[str] = frozenset()
    followers: tuple[str, ...] = ()
    is_variable: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """All that differs.

    Args:
        layouts: structures, unions and variables that lie differently in memory.
        values: enumerations of which a value is another number.
        prototypes: functions that other units can call and that are called differently.
        remarks: what differs and endangers nothing.
    """

    layouts: tuple[Change, ...] = ()
    values: tuple[Change, ...] = ()
    prototypes: tuple[Change, ...] = ()
    remarks: tuple[str, ...] = ()


def declared_differently(
    before: Types, after: Types, static_locals: Iterable[tuple[Variable, Variable]] = ()
) -> Declared:
    """Compare the types of two builds of one unit.

    Args:
        before: those that the running kernel has.
        static_locals: static variables of functions, each before and after; which is which is not
            told by their names.
    """
    remarks: list[str] = []
    layouts = [
        *_layouts(before, after, remarks),
        *_variables(before, after),
        *_static_locals(static_locals),
    ]
    return Declared(
        tuple(layouts),
        tuple(_values(before, after, remarks)),
        tuple(_prototypes(before, after)),
        tuple(remarks),
    )


# -- structures -----------------------------------------------------------------------------------


def _layouts(before: Types, after: Types, remarks: list[str]) -> Iterator[Change]:
    changed: dict[str, list[str]] = {}
    moved: dict[str, list[str]] = {}
    for name in sorted(before.structures.keys() & after.structures.keys()):
        old, new = before.structures[name], after.structures[name]
        own = list(_changed_members(old, new, remarks))
        rest = list(_moved_members(old, new))
        if old.size != new.size:
            rest.append(f"its size changes from {old.size} to {new.size} bytes")
        if own:
            changed[name] = [*own, *rest]
        elif rest:
            moved[name] = rest
    # What only holds a changed structure is named with it, not beside it.
    causes = _causes(before, changed.keys() | moved.keys())
    for name in [each for each in moved if not causes[each]]:
        changed[name] = moved.pop(name)
    users = before.users(frozenset(changed))
    for name in sorted(changed):
        followers = tuple(sorted(each for each in moved if name in causes[each]))
        yield Change(name, tuple(changed[name]), users[name], followers)


def _changed_members(old: Structure, new: Structure, remarks: list[str]) -> Iterator[str]:
    gone = [each for path, each in old.members.items() if path not in new.members]
    added = [each for path, each in new.members.items() if path not in old.members]
    for member in gone:
        twin = next((each for each in added if _same_place(member, each)), None)
        if twin is None:
            yield f"{member.path} ({_bytes(member.size)} at {_place(member.offset)}) is gone"
        else:
            added.remove(twin)
            remarks.append(f"{old.name}: {member.path} is called {twin.path} by the fix")
    for member in added:
        yield f"{member.path} ({_bytes(member.size)} at {_place(member.offset)}) is new"
    for path, member in old.members.items():
        other = new.members.get(path)
        if other is not None and other.type != member.type:
            yield f"{path} was {member.type} and would be {other.type}"
        elif other is not None and other.size != member.size and _is_bit_field(member, other):
            yield f"{path} had {_bytes(member.size)} and would have {_bytes(other.size)}"


def _is_bit_field(*members: Member) -> bool:
    return any(each.size % 8 or each.offset % 8 for each in members)


def _moved_members(old: Structure, new: Structure) -> Iterator[str]:
    for path, member in old.members.items():
        other = new.members.get(path)
        if other is None or other.type != member.type:
            continue
        if other.offset != member.offset:
            yield f"{path} moves from {_place(member.offset)} to {_place(other.offset)}"
        elif other.size != member.size and not _is_bit_field(member, other):
            yield f"{path} had {_bytes(member.size)} and would have {_bytes(other.size)}"


def _same_place(member: Member, other: Member) -> bool:
    return (member.offset, member.size, member.type) == (other.offset, other.size, other.type)


def _causes(types: Types, changed: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """For each changed structure, the other changed ones that are a part of it."""
    names = frozenset(changed)
    holders = {name: types.holders(name) for name in names}
    return {
        name: frozenset(each for each in names if each != name and name in holders[each])
        for name in names
    }


def _variables(before: Types, after: Types) -> Iterator[Change]:
    """A variable that other code takes for something else; its size is compared elsewhere."""
    for name in sorted(before.variables.keys() & after.variables.keys()):
        old, new = before.variables[name], after.variables[name]
        if old.size == new.size and old.type != new.type:
            text = f"was {old.type} and would be {new.type}"
            yield Change(name, (text,), is_variable=True)


def _static_locals(pairs: Iterable[tuple[Variable, Variable]]) -> Iterator[Change]:
    """``static int count`` that becomes unsigned: the running one keeps its value."""
    for old, new in sorted(pairs, key=lambda pair: (pair[0].name, pair[0].function)):
        if old.size == new.size and old.type != new.type:
            text = f"was {old.type} and would be {new.type}"
            name, users = f"{old.name} of {old.function}()", frozenset({old.function})
            yield Change(name, (text,), users, is_variable=True)


# -- enumerations and prototypes ------------------------------------------------------------------


def _values(before: Types, after: Types, remarks: list[str]) -> Iterator[Change]:
    """Values are compared by their own names: a nameless enumeration has no other."""
    numbers = {
        name: number
        for each in before.enumerations.values()
        for name, number in each.values.items()
    }
    for enumeration in sorted(after.enumerations.values(), key=lambda each: each.name):
        changed = {
            name: (numbers[name], number)
            for name, number in enumeration.values.items()
            if numbers.get(name, number) != number
        }
        if not changed:
            continue
        details = tuple(
            f"{name} was {old} and would be {new}" for name, (old, new) in changed.items()
        )
        last = list(enumeration.values)[-len(changed) :]
        if last == list(changed) and all(map(_is_bound, changed)):
            remarks.append(f"{enumeration.name}: {few(details)}, for unchanged code it stays")
        else:
            yield Change(enumeration.name, details)


def _is_bound(name: str) -> bool:
    """Whether a value only tells how many others there are: ``NR_PAGEFLAGS``, ``__IFLA_MAX``.

    Arrays of that many elements are noticed by their sizes.
    """
    words = name.strip("_").upper().split("_")
    return not {*words}.isdisjoint(
        ("MAX", "NR", "NUM", "COUNT", "CNT", "LAST", "END", "SIZE", "TOTAL", "LEN")
    )


def _prototypes(before: Types, after: Types) -> Iterator[Change]:
    for name in sorted(before.prototypes.keys() & after.prototypes.keys()):
        old, new = before.prototypes[name], after.prototypes[name]
        if old != new:
            yield Change(name, (f"was {old} and would be {new}",))


# -- words ----------------------------------------------------------------------------------------


def _bytes(bits: int) -> str:
    if bits % 8:
        return f"{bits} bit" if bits == 1 else f"{bits} bits"
    return "1 byte" if bits == 8 else f"{bits // 8} bytes"


def _place(bits: int) -> str:
    return f"byte {bits // 8}, bit {bits % 8}" if bits % 8 else f"byte {bits // 8}"
