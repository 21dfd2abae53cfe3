# SPDX-License-Identifier: GPL-2.0-or-later
"""The types of a unit, from its debug information, in a form that two builds can be compared in.

The compiler writes down only what the unit uses, so types of headers that nobody uses are not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from livegraft.compare.spelling import AGGREGATES, Member, Spelling, bit_offset
from livegraft.compare.unit import Unit
from livegraft.elf.dwarf import (
    At,
    DebugInformation,
    Entry,
    Tag,
    read_debug_information,
    walk,
)
from livegraft.errors import ElfError

_HAS_CODE = frozenset({At.LOW_PC, At.RANGES})


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure or union.

    Args:
        name: how C calls it (``struct inode``, ``atomic_t``).
        size: in bytes.
        members: by their paths, in order.
    """

    name: str
    size: int
    members: Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enumeration.

    Args:
        name: how C calls it; without a name of its own, after its first value.
        size: in bytes.
        values: by their names, in order.
    """

    name: str
    size: int
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that outlives a call.

    Args:
        name: its name.
        size: in bytes.
        type: its C type.
        function: the function that it is static in; empty outside of functions.
    """

    name: str
    size: int
    type: str
    function: str = ""


class Types:
    """The types of one unit.

    Args:
        debug: its debug information.
    """

    def __init__(self, debug: DebugInformation) -> None:
        self._debug = debug
        self._spelling = Spelling(debug)
        self.structures: dict[str, Structure] = {}
        self.enumerations: dict[str, Enumeration] = {}
        self.prototypes: dict[str, str] = {}
        """Types of functions that other units can call, defined here or there, by name."""
        self.variables: dict[str, Variable] = {}
        """Variables outside of functions, by name, if their size is known."""
        self.static_locals: dict[tuple[int, int], Variable] = {}
        """Static variables of functions, by section and offset: names of them come twice."""
        self._entries_of: dict[str, Entry] = {}
        for unit in debug.units:
            for entry in unit.children:
                self._take(entry)

    # -- what others ask ------------------------------------------------------------------------

    def users(self, names: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """The functions that have a variable or argument of a type, of a pointer to it, or of what
        holds one, by the type's name."""
        holders = {name: self.holders(name) for name in names}
        found: dict[str, set[str]] = {name: set() for name in names}
        for function, used in self._used_by_functions():
            for name, those in holders.items():
                if used & those:
                    found[name].add(function)
        return {name: frozenset(functions) for name, functions in found.items()}

    def place(self, variable: str, offset: int) -> Member | None:
        """What lies at an offset of a variable outside of functions.

        Args:
            offset: bytes from its start.

        Returns:
            The innermost member, with its path from the variable (``.ops[2].open``; empty for a
            plain variable) and its offset in it; None if the debug information does not tell.
        """
        entry = self._entries_of.get(variable)
        if entry is None:
            return None
        found = self._member_at(self._spelling.type_of(entry), offset)
        return found if found.size else None

    # -- construction ---------------------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        tag = entry.tag
        if tag == Tag.ENUMERATION and not entry.name:
            first = next((each.name for each in entry.children), "")
            self._take_aggregate(entry, f"enum {{{first}, ...}}")
        elif tag in AGGREGATES:
            if entry.name:
                self._take_aggregate(entry, self._spelling.text(entry))
        elif tag == Tag.TYPEDEF:
            target = self._spelling.plain(entry)
            if target is not None and target.tag in AGGREGATES and not target.name:
                self._take_aggregate(target, entry.name)
        elif tag == Tag.SUBPROGRAM:
            if At.EXTERNAL in entry.values and entry.name:
                self.prototypes.setdefault(entry.name, self._spelling.function(entry))
            origin = self._debug.reference(entry, At.ABSTRACT_ORIGIN) or entry
            self._take_static_locals(entry, origin.name)
            for inner in self._block_types(entry):
                self._take_aggregate(inner, f"{self._spelling.text(inner)} of {entry.name}()")
        elif tag == Tag.VARIABLE and entry.name:
            self._entries_of.setdefault(entry.name, entry)
            type_ = self._spelling.type_of(entry)
            size = self._spelling.size(type_)
            if size:
                self.variables.setdefault(
                    entry.name, Variable(entry.name, size, self._spelling.text(type_))
                )

    def _take_static_locals(self, function: Entry, name: str) -> None:
        for entry in walk(function):
            place = self._debug.place(entry) if entry.tag == Tag.VARIABLE else None
            if place is None:
                continue
            origin = self._debug.reference(entry, At.ABSTRACT_ORIGIN) or entry
            type_ = self._spelling.type_of(origin)
            found = Variable(
                origin.name, self._spelling.size(type_), self._spelling.text(type_), name
            )
            self.static_locals.setdefault(place, found)

    def _block_types(self, function: Entry) -> Iterator[Entry]:
        for entry in walk(function):
            if entry.tag in AGGREGATES and entry.name and function.name:
                yield entry

    def _take_aggregate(self, entry: Entry, name: str) -> None:
        if At.DECLARATION in entry.values or At.BYTE_SIZE not in entry.values:
            return
        size = entry.number(At.BYTE_SIZE) or 0
        if entry.tag == Tag.ENUMERATION:
            values = {
                each.name: each.number(At.CONST_VALUE) or 0
                for each in entry.children
                if each.tag == Tag.ENUMERATOR
            }
            self.enumerations.setdefault(name, Enumeration(name, size, values))
        else:
            members = {each.path: each for each in self._spelling.members(entry, "", 0)}
            self.structures.setdefault(name, Structure(name, size, members))

    # -- places and users -----------------------------------------------------------------------

    def _member_at(self, entry: Entry | None, offset: int) -> Member:
        spelling = self._spelling
        plain = spelling.plain(entry)
        whole = Member("", 0, 8 * spelling.size(entry), spelling.text(entry))
        if plain is None:
            return whole
        if plain.tag == Tag.ARRAY:
            element = spelling.type_of(plain)
            size = spelling.size(element)
            if not size or len(spelling.lengths(plain)) != 1 or "char" in spelling.text(element):
                return whole
            return _within(
                self._member_at(element, offset % size),
                f"[{offset // size}]",
                offset - offset % size,
            )
        for child in reversed(plain.children if plain.tag == Tag.STRUCTURE else []):
            start = bit_offset(child) // 8
            if child.tag == Tag.MEMBER and start <= offset and At.BIT_SIZE not in child.values:
                path = f".{child.name}" if child.name else ""
                return _within(
                    self._member_at(spelling.type_of(child), offset - start), path, start
                )
        return whole

    def _used_by_functions(self) -> Iterator[tuple[str, set[str]]]:
        for unit in self._debug.units:
            for entry in unit.children:
                if entry.tag != Tag.SUBPROGRAM or not _HAS_CODE & entry.values.keys():
                    continue
                origin = self._debug.reference(entry, At.ABSTRACT_ORIGIN) or entry
                name = origin.name
                if name:
                    yield name, {self._reached(each) for each in walk(entry)} - {""}

    def _reached(self, entry: Entry) -> str:
        """The structure that a variable or argument is, holds or points to."""
        if entry.tag not in (Tag.VARIABLE, Tag.PARAMETER):
            return ""
        origin = self._debug.reference(entry, At.ABSTRACT_ORIGIN) or entry
        return self._spelling.text(self._spelling.pointed_at(self._spelling.type_of(origin)))

    def holders(self, name: str) -> frozenset[str]:
        """A type and the structures that it is a part of."""
        found = {name}
        work = [name]
        while work:
            wanted = work.pop()
            for structure in self.structures.values():
                if structure.name not in found and any(
                    each.type.split("[")[0] == wanted for each in structure.members.values()
                ):
                    found.add(structure.name)
                    work.append(structure.name)
        return frozenset(found)


def _within(member: Member, path: str, start: int) -> Member:
    """A member as a part of what is around it; `start` in bytes."""
    return replace(member, path=path + member.path, offset=8 * start + member.offset)


_KNOWN: WeakKeyDictionary[Unit, Types] = WeakKeyDictionary()


def types_of(unit: Unit) -> Types | None:
    """The types of an object; None if it has no debug information.

    Raises:
        ElfError: its debug information is malformed.
    """
    if not unit.obj.has_debug_information:
        return None
    if unit not in _KNOWN:
        try:
            _KNOWN[unit] = Types(read_debug_information(unit.obj, unit.subject))
        except RecursionError as error:
            text = f"its debug information is malformed ({error})"
            raise ElfError(unit.subject, text) from error
    return _KNOWN[unit]
