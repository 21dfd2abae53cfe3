# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix says beside its code: the marks of ``livegraft.h``, read out of a compiled unit.

The header (kmod/include/livegraft.h) puts them into sections ``.livegraft.*``, which take no part
in the comparison and do not come into the payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from livegraft.compare import names
from livegraft.compare.entity import Entity
from livegraft.compare.unit import Unit
from livegraft.elf.object import Section
from livegraft.errors import ElfError

if TYPE_CHECKING:  # most units have no marks, and making the classes there takes 10 ms
    from livegraft.changeset import CallbackKind, SystemState

PREFIX = ".livegraft."
MARKS = ".livegraft.marks"
STATES = ".livegraft.states"
CALLBACKS = ".livegraft.callbacks."
PATCHES = ".livegraft.patches"

_STATE = struct.Struct("QQ")
"""``struct livegraft_state``: identifier and version."""

_POINTER = 8
"""Bytes of a pointer to a callback."""

_WORDS = ("force-changed", "ignore-function", "ignore-section", "accept-layout")


class Marks(NamedTuple):
    """The marks of one unit.

    Args:
        callbacks: the function of each kind of callback, an entity of the unit; a name if it is
            defined elsewhere.
        states: system states that the patch declares.
        forced: functions to take although they compare equal, as the source names them.
        ignored_functions: functions to leave although they differ.
        ignored_sections: sections whose data are to be left although they differ.
        accepted_layouts: types whose changed layout the author vouches for (``struct foo``).
    """

    callbacks: tuple[tuple[CallbackKind, Entity | str], ...] = ()
    states: tuple[SystemState, ...] = ()
    forced: frozenset[str] = frozenset()
    ignored_functions: frozenset[str] = frozenset()
    ignored_sections: frozenset[str] = frozenset()
    accepted_layouts: frozenset[str] = frozenset()

    def is_forced(self, function: Entity) -> bool:
        """Whether a function is taken in any case."""
        return _is_named(function.name, self.forced)

    def is_ignored(self, function: Entity) -> bool:
        """Whether a function is left in any case."""
        return _is_named(function.top.name, self.ignored_functions)

    def ignores_section(self, section: str) -> bool:
        """Whether data of a section are left as they are."""
        return _is_named(section, self.ignored_sections)


def marks_of(unit: Unit) -> Marks:
    """The marks of a unit that was compiled with ``livegraft.h``; none of one that was not.

    Raises:
        ElfError: a section of marks holds something else.
    """
    words: dict[str, set[str]] = {word: set() for word in _WORDS}
    callbacks: list[tuple[CallbackKind, Entity | str]] = []
    states: list[SystemState] = []
    for section in unit.obj.sections:
        if not section.name.startswith(PREFIX):
            continue
        if section.name == PATCHES:
            continue
        if section.name == MARKS:
            for word, value in _texts(section):
                words[word].add(value)
        elif section.name == STATES:
            states += _states(unit, section)
        else:
            callbacks.append((_kind(section), _pointed(unit, section)))
    return Marks(
        tuple(sorted(callbacks, key=_position)),
        tuple(sorted(set(states))),
        *(frozenset(words[word]) for word in _WORDS),
    )


def _is_named(name: str, wanted: frozenset[str]) -> bool:
    """Whether something is meant, without what the compiler appended to its name."""
    return bool(wanted) and (name in wanted or names.base(name) in wanted)


def _texts(section: Section) -> Iterator[tuple[str, str]]:
    for text in section.data.decode("utf-8", "replace").rstrip("\0").split("\0"):
        word, _, value = text.partition("=")
        if word not in _WORDS or not value:
            raise ElfError(section.name, f"holds the unknown mark {text!r}")
        yield word, value


def _states(unit: Unit, section: Section) -> Iterator[SystemState]:
    if section.size % _STATE.size or len(section.data) != section.size:
        raise ElfError(section.name, "is no array of struct livegraft_state")
    from livegraft.changeset import SystemState

    order = unit.obj.byte_order
    for identifier, version in struct.iter_unpack(f"{order}{_STATE.format}", section.data):
        yield SystemState(identifier, version)


def _kind(section: Section) -> CallbackKind:
    from livegraft.changeset import CallbackKind

    try:
        return CallbackKind(section.name.removeprefix(CALLBACKS))
    except ValueError:
        raise ElfError(section.name, "is a section of marks that is not known") from None


def _position(callback: tuple[CallbackKind, Entity | str]) -> int:
    """A callback's place in ``struct klp_callbacks``."""
    from livegraft.changeset import CallbackKind

    return list(CallbackKind).index(callback[0])


def _pointed(unit: Unit, section: Section) -> Entity | str:
    """The function that the section's only pointer leads to."""
    if section.size != _POINTER or len(section.relocations) != 1:
        raise ElfError(section.name, "is not one pointer to a function")
    (found,) = _pointers(unit, section)
    return found


def patches_of(unit: Unit) -> tuple[Entity | str, ...]:
    """The functions that a unit says it replaces (``LIVEGRAFT_PATCHES()``); names if the unit does
    not define them.

    Raises:
        ElfError: the mark speaks of something else.
    """
    return tuple(
        found
        for section in unit.obj.sections
        if section.name == PATCHES
        for found in _pointers(unit, section)
    )


def _pointers(unit: Unit, section: Section) -> Iterator[Entity | str]:
    """The functions that a section's pointers lead to."""
    starts = {(each.section, each.value): each for each in unit.functions()}
    for entry in section.relocations:
        symbol = unit.obj.symbols[int(entry["symbol"])]
        if symbol.is_undefined:
            yield symbol.name
            continue
        found = starts.get((symbol.section, symbol.value + int(entry["addend"])))
        if found is None:
            raise ElfError(section.name, "does not point to the start of a function")
        yield found
