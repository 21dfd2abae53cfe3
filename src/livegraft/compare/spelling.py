# SPDX-License-Identifier: GPL-2.0-or-later
"""How C would spell a type of the debug information, how large it is, and what its members are.

What cannot matter to memory is left out of the spelling: ``const``, ``volatile``, and the names of
typedefs (``u32`` and ``__u32`` are ``unsigned int``), unless the typedef is the only name that a
structure has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from livegraft.elf.dwarf import At, DebugInformation, Entry, Tag

AGGREGATES = {Tag.STRUCTURE: "struct", Tag.UNION: "union", Tag.ENUMERATION: "enum"}
_TRANSPARENT = frozenset({Tag.CONST, Tag.VOLATILE, Tag.RESTRICT, Tag.ATOMIC, Tag.TYPEDEF})
_POINTER_BYTES = 8
_LONGEST_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure or union; those of nameless members count as its own.

    Args:
        path: its name, with those of what is around it (``u.key.len``).
        offset: in bits.
        size: in bits; 0 for an array of unknown length.
        type: its C type.
    """

    path: str
    offset: int
    size: int
    type: str


class Spelling:
    """The spelling of the types of one unit.

    Args:
        debug: its debug information.
    """

    def __init__(self, debug: DebugInformation) -> None:
        self._debug = debug
        self._known: dict[int, str] = {}
        self._begun: set[int] = set()

    def type_of(self, entry: Entry) -> Entry | None:
        return self._debug.reference(entry)

    def plain(self, entry: Entry | None) -> Entry | None:
        """A type without qualifiers and typedefs.

        Raises:
            RecursionError: it refers to itself.
        """
        for _ in range(_LONGEST_CHAIN):
            if entry is None or entry.tag not in _TRANSPARENT:
                return entry
            entry = self.type_of(entry)
        raise RecursionError("a type refers to itself")

    def text(self, entry: Entry | None) -> str:
        if entry is None:
            return "void"
        known = self._known.get(entry.offset)
        if known is None:
            if entry.offset in self._begun:
                return "..."
            self._begun.add(entry.offset)
            known = self._known[entry.offset] = self._new_text(entry)
            self._begun.discard(entry.offset)
        return known

    def _new_text(self, entry: Entry) -> str:
        tag = entry.tag
        if tag in _TRANSPARENT:
            return self._transparent_text(entry)
        if tag in AGGREGATES:
            return f"{AGGREGATES[Tag(tag)]} {entry.name or self._contents(entry)}"
        if tag == Tag.POINTER:
            target = self.plain(self.type_of(entry))
            if target is not None and target.tag == Tag.SUBROUTINE:
                return self.function(target, "(*)")
            return f"{self.text(self.type_of(entry))} *"
        if tag == Tag.ARRAY:
            lengths = "".join(f"[{'' if n is None else n}]" for n in self.lengths(entry))
            return f"{self.text(self.type_of(entry))}{lengths}"
        return self.function(entry) if tag == Tag.SUBROUTINE else entry.name or f"type {tag:#x}"

    def _transparent_text(self, entry: Entry) -> str:
        """What is behind it; the first typedef of a nameless aggregate names that."""
        target, plain = self.type_of(entry), self.plain(entry)
        nameless = plain is not None and plain.tag in AGGREGATES and not plain.name
        is_first = target is None or target.tag != Tag.TYPEDEF
        return (
            entry.name if entry.tag == Tag.TYPEDEF and nameless and is_first else self.text(target)
        )

    def function(self, entry: Entry, middle: str = "") -> str:
        arguments = []
        for child in entry.children:
            if child.tag == Tag.PARAMETER:
                arguments.append(self.text(self.type_of(child)))
            elif child.tag == Tag.UNSPECIFIED_PARAMETERS:
                arguments.append("...")
        return f"{self.text(self.type_of(entry))} {middle}({', '.join(arguments)})"

    def pointed_at(self, entry: Entry | None) -> Entry | None:
        """A type without what points to it or holds many of it.

        Raises:
            RecursionError: it refers to itself.
        """
        for _ in range(_LONGEST_CHAIN):
            plain = self.plain(entry)
            if plain is None or plain.tag not in (Tag.POINTER, Tag.ARRAY):
                return entry
            entry = self.type_of(plain)
        raise RecursionError("a type refers to itself")

    def _contents(self, entry: Entry) -> str:
        """A nameless aggregate by what is in it; an enumeration's values are compared apart."""
        if entry.tag == Tag.ENUMERATION:
            return "{...}"
        members = (f"{each.type} {each.path}@{each.offset}" for each in self.members(entry, "", 0))
        return f"{{{'; '.join(members)}}}"

    def lengths(self, array: Entry) -> list[int | None]:
        lengths: list[int | None] = []
        for each in array.children:
            if each.tag == Tag.SUBRANGE:
                last, count = each.number(At.UPPER_BOUND), each.number(At.COUNT)
                # A flexible array has no bound, or the largest there is for -1.
                length = count if last is None else last + 1
                lengths.append(None if length is not None and length >= 1 << 63 else length)
        return lengths

    def size(self, entry: Entry | None) -> int:
        """In bytes; 0 if it is not known."""
        plain = self.plain(entry)
        if plain is None:
            return 0
        if plain.tag == Tag.ARRAY:
            size = self.size(self.type_of(plain))
            for length in self.lengths(plain):
                size *= length or 0
            return size
        default = _POINTER_BYTES if plain.tag == Tag.POINTER else 0
        return plain.number(At.BYTE_SIZE) or default

    def members(self, aggregate: Entry, prefix: str, base: int) -> Iterator[Member]:
        """The members with those of anonymous structures in it; `base` in bits."""
        for entry in aggregate.children:
            if entry.tag != Tag.MEMBER:
                continue
            type_ = self.type_of(entry)
            offset = base + bit_offset(entry)
            plain = self.plain(type_)
            path = prefix + entry.name
            nameless = plain is type_ and plain is not None and not plain.name
            if nameless and plain is not None and plain.tag in (Tag.STRUCTURE, Tag.UNION):
                inner = f"{path}." if entry.name else prefix
                yield from self.members(plain, inner, offset)
                continue
            bits = entry.number(At.BIT_SIZE)
            size = 8 * self.size(type_) if bits is None else bits
            yield Member(path, offset, size, self.text(type_))


def bit_offset(member: Entry) -> int:
    """Where a member begins in what is around it; in a union everything begins at 0."""
    bits = member.number(At.DATA_BIT_OFFSET)
    if bits is not None:
        return bits
    start = 8 * (member.number(At.MEMBER_LOCATION) or 0)
    from_top, size = member.number(At.BIT_OFFSET), member.number(At.BIT_SIZE)
    if from_top is not None and size is not None:  # before DWARF 5; counted from the highest bit
        start += 8 * (member.number(At.BYTE_SIZE) or 0) - from_top - size
    return start
