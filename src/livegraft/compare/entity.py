# SPDX-License-Identifier: GPL-2.0-or-later
"""The things that an object consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto
from typing import NamedTuple

from livegraft.compare import names


class Kind(IntEnum):
    """What an entity is; a number, so that arrays can hold it."""

    FUNCTION = auto()
    DATA = auto()
    STRING = auto()
    CONSTANT = auto()
    """A constant of a section that the linker may merge (``.rodata.cst16``)."""
    SNIPPET = auto()
    """Code without a symbol: an alternative's replacement."""
    ANONYMOUS = auto()
    """A section without symbols (a jump table in ``.rodata``)."""
    ENTRY = auto()
    """An entry of a table that speaks of a function (``__bug_table``)."""


NAMED = frozenset({Kind.FUNCTION, Kind.DATA})


@dataclass(slots=True, eq=False)
class Entity:
    """A part of a section that is compared and moved as one.

    Args:
        name: its symbol's name; a table's name for an entry; empty if it has none.
        kind: what it is.
        section: its section's number.
        start: where its bytes begin; for a function behind another one, that one's end.
        value: where its symbol points.
        end: behind its last byte.
        symbol: its symbol's number; 0 if it has none.
        number: its place in :attr:`Unit.entities`.
        aliases: numbers of other symbols at the same place.
        entries: table entries that speak of it.
        parent: the function whose cold part it is.
        parts: its cold parts.
    """

    name: str
    kind: Kind
    section: int
    start: int
    value: int
    end: int
    symbol: int = 0
    number: int = -1
    aliases: tuple[int, ...] = ()
    entries: tuple[Entity, ...] = ()
    parent: Entity | None = None
    parts: tuple[Entity, ...] = ()

    @property
    def size(self) -> int:
        """Bytes from the symbol on."""
        return self.end - self.value

    @property
    def is_always_new(self) -> bool:
        """Whether new code brings its own copy of it."""
        return self.kind is Kind.DATA and names.is_always_new(self.name)

    @property
    def top(self) -> Entity:
        """The function that it is a part of, at last: ``foo`` for ``foo.part.0.cold``'s parent."""
        entity = self
        while entity.parent is not None:
            entity = entity.parent
        return entity


class Oddity(NamedTuple):
    """Something in an object that the comparison does not understand.

    Args:
        rule: the rule that refuses it.
        object: what it is about.
        message: what is the matter with it.
        entity: the entity that cannot be judged for it; None for the whole object.
    """

    rule: str
    object: str
    message: str
    entity: Entity | None = None
