# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug information of a relocatable object: its entries with the attributes that types need.

Source of the format: DWARF 5 (dwarfstd.org), sections 7.5 (units, abbreviations, entries) and 7.5.5
(forms); version 4 differs in the unit's header only. The 64-bit format is not read: no kernel has
it. An abbreviation becomes a list of steps, so that one ``struct`` call reads all attributes of
fixed size.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from livegraft.elf.arch.registry import architecture
from livegraft.elf.header import ByteOrder, SectionFlag
from livegraft.elf.object import ElfObject, Section
from livegraft.errors import ElfError


class Tag(IntEnum):
    """``DW_TAG_*``, as far as they are asked for."""

    ARRAY = 0x01
    ENUMERATION = 0x04
    PARAMETER = 0x05
    LEXICAL_BLOCK = 0x0B
    MEMBER = 0x0D
    POINTER = 0x0F
    COMPILE_UNIT = 0x11
    STRUCTURE = 0x13
    SUBROUTINE = 0x15
    TYPEDEF = 0x16
    UNION = 0x17
    UNSPECIFIED_PARAMETERS = 0x18
    SUBRANGE = 0x21
    BASE = 0x24
    CONST = 0x26
    ENUMERATOR = 0x28
    SUBPROGRAM = 0x2E
    VARIABLE = 0x34
    VOLATILE = 0x35
    RESTRICT = 0x37
    ATOMIC = 0x47


class At(IntEnum):
    """``DW_AT_*``, those that are kept."""

    LOCATION = 0x02
    NAME = 0x03
    BYTE_SIZE = 0x0B
    BIT_OFFSET = 0x0C
    BIT_SIZE = 0x0D
    LOW_PC = 0x11
    CONST_VALUE = 0x1C
    UPPER_BOUND = 0x2F
    ABSTRACT_ORIGIN = 0x31
    COUNT = 0x37
    MEMBER_LOCATION = 0x38
    DECLARATION = 0x3C
    EXTERNAL = 0x3F
    SPECIFICATION = 0x47
    TYPE = 0x49
    RANGES = 0x55
    DATA_BIT_OFFSET = 0x6B


_KEPT = frozenset(map(int, At))

Value = int | str | bytes


@dataclass(slots=True, eq=False)
class Entry:
    """A debugging information entry (DIE).

    Args:
        offset: bytes from the start of its section.
        tag: ``DW_TAG_*``; a :class:`Tag` if it is one of those.
        values: its attributes, by ``DW_AT_*``. References are offsets in the section.
        children: entries below it.
    """

    offset: int
    tag: int
    values: dict[int, Value]
    children: list[Entry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name; empty if it has none."""
        return str(self.values.get(At.NAME, ""))

    def number(self, attribute: At) -> int | None:
        """A numeric attribute; None if it is missing or computed at run time."""
        value = self.values.get(attribute)
        return value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class DebugInformation:
    """All entries of an object.

    Args:
        units: one per compilation unit.
        entries: every entry by its offset.
        byte_order: the object's.
    """

    units: tuple[Entry, ...]
    entries: dict[int, Entry]
    byte_order: ByteOrder = "<"

    def place(self, variable: Entry) -> tuple[int, int] | None:
        """Where a variable lies: a section's number and the offset in it; None for one on a
        stack, in registers or in another object."""
        location = variable.values.get(At.LOCATION)
        if not isinstance(location, bytes) or len(location) != 1 + _ADDRESS_BYTES:
            return None
        if location[0] != _OP_ADDR:
            return None
        (place,) = struct.unpack(f"{self.byte_order}Q", location[1:])
        section, offset = place >> PLACE_SHIFT, place & ((1 << PLACE_SHIFT) - 1)
        return (section, offset) if section else None

    def reference(self, entry: Entry, attribute: At = At.TYPE) -> Entry | None:
        """The entry that an attribute of another one refers to; None if there is no such."""
        value = entry.values.get(attribute)
        return self.entries.get(value) if isinstance(value, int) else None


def read_debug_information(obj: ElfObject, subject: str = "object") -> DebugInformation:
    """Read the entries of an object's ``.debug_info``; nothing if it has none.

    Raises:
        ElfError: it is malformed, or in a form that this reader does not know.
    """
    if not obj.has_debug_information:
        return DebugInformation((), {})
    try:
        return _Reader(obj, subject).read()
    except (struct.error, IndexError, KeyError, ValueError, zlib.error) as error:
        text = f"its debug information is malformed ({type(error).__name__}: {error})"
        raise ElfError(subject, text) from error


# -- forms ----------------------------------------------------------------------------------------

_FIXED = {
    0x01: "Q",  # addr
    0x05: "H",  # data2
    0x06: "I",  # data4
    0x07: "Q",  # data8
    0x0B: "B",  # data1
    0x0C: "B",  # flag
    0x0E: "I",  # strp
    0x10: "I",  # ref_addr
    0x11: "B",  # ref1
    0x12: "H",  # ref2
    0x13: "I",  # ref4
    0x14: "Q",  # ref8
    0x17: "I",  # sec_offset
    0x1E: "16s",  # data16
    0x1F: "I",  # line_strp
    0x20: "Q",  # ref_sig8
}
"""Forms of a fixed size and how :mod:`struct` reads them."""

_FLAG_PRESENT, _IMPLICIT_CONST = 0x19, 0x21
_STRP, _LINE_STRP, _STRING = 0x0E, 0x1F, 0x08
_SDATA, _UDATA, _REF_UDATA = 0x0D, 0x0F, 0x15
_BLOCKS = {0x0A: "B", 0x03: "H", 0x04: "I"}
_BLOCK_ULEB = frozenset({0x09, 0x18})  # block, exprloc
_REFERENCES = frozenset({0x11, 0x12, 0x13, 0x14, _REF_UDATA})

PLACE_SHIFT = 40
"""An address is read as a place: a section's number above that many bits of offset."""

_OFFSET_BYTES, _ADDRESS_BYTES = 4, 8
_WHOLE_ADDRESS = bytes([255]) * _ADDRESS_BYTES
_OP_ADDR = 0x03

_LONGEST_SHIFT = 70
_DEEPEST = 200
"""Entries within entries: a block in a block in an inlined function; compilers stay far below."""

_LARGEST_SECTION = 1 << 31

_Step = tuple["struct.Struct | None", list[tuple[int, int]], int, int]
"""Attributes of fixed size, or (None, [], attribute, form) for one of any size."""


@dataclass(frozen=True, slots=True)
class _Abbreviation:
    tag: int
    has_children: bool
    steps: list[_Step]
    constants: dict[int, Value]


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _LONGEST_SHIFT:
            raise ValueError("a number of more than 64 bits")


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    start = at
    value, at = _uleb(data, at)
    return (value - (1 << 7 * (at - start)) if data[at - 1] & 0x40 else value), at


class _Reader:
    def __init__(self, obj: ElfObject, subject: str) -> None:
        self.subject = subject
        self.order = obj.byte_order
        self.info = _contents(obj, ".debug_info", subject)
        self.abbreviations = _contents(obj, ".debug_abbrev", subject)
        self.strings = {
            _STRP: _contents(obj, ".debug_str", subject),
            _LINE_STRP: _contents(obj, ".debug_line_str", subject),
        }
        self.known: dict[tuple[int, int], str] = {}
        self.entries: dict[int, Entry] = {}

    def read(self) -> DebugInformation:
        units = []
        at = 0
        while at < len(self.info):
            unit, at = self._unit(at)
            units += unit
        return DebugInformation(tuple(units), self.entries, self.order)

    def _unit(self, start: int) -> tuple[list[Entry], int]:
        length, version = struct.unpack_from(f"{self.order}IH", self.info, start)
        end = start + 4 + length
        if length >= 0xFFFFFFF0 or end > len(self.info) or version not in (4, 5):
            raise ElfError(self.subject, f"its debug information (version {version}) is not known")
        if version == 5:
            kind, width, table = struct.unpack_from(f"{self.order}BBI", self.info, start + 6)
            at = start + 12
        else:
            table, width = struct.unpack_from(f"{self.order}IB", self.info, start + 6)
            kind, at = 1, start + 11
        if kind != 1 or width != 8:  # DW_UT_compile
            raise ElfError(self.subject, f"has a debug unit of the unknown kind {kind}")
        return self._entries(start, at, end, self._table(table, start)), end

    def _table(self, at: int, base: int) -> dict[int, _Abbreviation]:
        data = self.abbreviations
        table: dict[int, _Abbreviation] = {}
        while True:
            code, at = _uleb(data, at)
            if not code:
                return table
            tag, at = _uleb(data, at)
            has_children, at = bool(data[at]), at + 1
            specifications: list[tuple[int, int]] = []
            constants: dict[int, Value] = {}
            while True:
                attribute, at = _uleb(data, at)
                form, at = _uleb(data, at)
                if not attribute and not form:
                    break
                if form == _IMPLICIT_CONST:
                    value, at = _sleb(data, at)
                    if attribute in _KEPT:
                        constants[attribute] = value
                elif form == _FLAG_PRESENT:
                    if attribute in _KEPT:
                        constants[attribute] = 1
                else:
                    specifications.append((attribute, form))
            table[code] = _Abbreviation(
                tag, has_children, self._steps(specifications, base), constants
            )

    def _steps(self, specifications: list[tuple[int, int]], base: int) -> list[_Step]:
        steps: list[_Step] = []
        layout, wanted = "", list[tuple[int, int]]()
        for attribute, form in [*specifications, (0, 0)]:
            code = _FIXED.get(form)
            if code is not None:
                kept = attribute in _KEPT
                layout += code if kept else f"{struct.calcsize('<' + code)}x"
                if kept:
                    wanted.append((attribute, form))
                continue
            if layout:
                steps.append((struct.Struct(self.order + layout), wanted, 0, 0))
                layout, wanted = "", []
            if form:
                steps.append((None, [], attribute, form))
        return steps

    def _entries(
        self, base: int, at: int, end: int, table: dict[int, _Abbreviation]
    ) -> list[Entry]:
        info, entries = self.info, self.entries
        top: list[Entry] = []
        stack = [top]
        while at < end:
            offset = at
            code = info[at]
            at += 1
            if code > 0x7F:
                code, at = _uleb(info, offset)
            if not code:
                if len(stack) > 1:
                    stack.pop()
                continue
            found = table[code]
            values = found.constants.copy()
            for layout, wanted, attribute, form in found.steps:
                if layout is None:
                    at = self._long(values, attribute, form, at, base)
                    continue
                for (each, kind), read in zip(wanted, layout.unpack_from(info, at), strict=True):
                    if kind in _REFERENCES:
                        values[each] = read + base
                    elif kind in self.strings:
                        values[each] = self._string(kind, read)
                    else:
                        values[each] = read
                at += layout.size
            entry = entries[offset] = Entry(offset, found.tag, values)
            stack[-1].append(entry)
            if found.has_children:
                stack.append(entry.children)
                if len(stack) > _DEEPEST:
                    raise ValueError("entries lie too deep in one another")
        return top

    def _long(self, values: dict[int, Value], attribute: int, form: int, at: int, base: int) -> int:
        """An attribute whose size stands in the entry itself; returns where the next one is."""
        data = self.info
        value: Value
        if form == _STRING:
            end = data.index(b"\0", at)
            value, at = data[at:end].decode("utf-8", "surrogateescape"), end + 1
        elif form == _SDATA:
            value, at = _sleb(data, at)
        elif form in (_UDATA, _REF_UDATA):
            value, at = _uleb(data, at)
            value += base if form == _REF_UDATA else 0
        elif form in _BLOCKS or form in _BLOCK_ULEB:
            if form in _BLOCK_ULEB:
                size, at = _uleb(data, at)
            else:
                layout = struct.Struct(self.order + _BLOCKS[form])
                (size,) = layout.unpack_from(data, at)
                at += layout.size
            value, at = data[at : at + size], at + size
        else:
            raise ElfError(self.subject, f"its debug information has the unknown form {form:#x}")
        if attribute in _KEPT:
            values[attribute] = value
        return at

    def _string(self, form: int, offset: int) -> str:
        key = (form, offset)
        text = self.known.get(key)
        if text is None:
            table = self.strings[form]
            end = table.index(b"\0", offset)
            text = self.known[key] = table[offset:end].decode("utf-8", "surrogateescape")
        return text


def _contents(obj: ElfObject, name: str, subject: str) -> bytes:
    """A debug section's bytes, relocated: offsets in the other debug sections, and places."""
    number = obj.section_number(name)
    if number is None:
        return b""
    section = obj.sections[number]
    data = bytearray(_decompressed(obj, section, subject))
    places = section.relocations
    if not len(places):
        return bytes(data)
    bases = np.zeros(len(obj.symbols), dtype="i8")
    width = np.zeros(len(obj.symbols), dtype="i8")
    for number in np.unique(places["symbol"]).tolist():
        symbol = obj.symbols[number]
        if symbol.in_section and obj.sections[symbol.section].name.startswith(".debug"):
            width[number], bases[number] = _OFFSET_BYTES, symbol.value
        elif symbol.in_section:
            width[number] = _ADDRESS_BYTES
            bases[number] = (symbol.section << PLACE_SHIFT) + symbol.value
    fields = architecture(obj.machine, obj.byte_order, subject).fields
    addresses = [kind for kind, bits in fields.items() if bits == _WHOLE_ADDRESS]
    is_meant = (width[places["symbol"]] == _OFFSET_BYTES) | np.isin(places["type"], addresses)
    places = places[is_meant]
    view = np.frombuffer(data, dtype="u1")
    for size in (_OFFSET_BYTES, _ADDRESS_BYTES):
        kept = places[width[places["symbol"]] == size]
        values = (bases[kept["symbol"]] + kept["addend"]).astype(f"{obj.byte_order}u{size}")
        at = kept["offset"].astype("i8")
        if len(at) and int(at.max()) + size > len(data):
            raise ElfError(subject, f"{name}: relocation outside of the section")
        view[at[:, None] + np.arange(size)] = values.view("u1").reshape(-1, size)
    return bytes(data)


def _decompressed(obj: ElfObject, section: Section, subject: str) -> bytes:
    """Elf64_Chdr: ch_type, ch_reserved, ch_size, ch_addralign; type 1 is zlib."""
    if not section.flags & SectionFlag.COMPRESSED:
        return section.data
    kind, _, size, _ = struct.unpack_from(f"{obj.byte_order}IIQQ", section.data, 0)
    if kind != 1 or size > _LARGEST_SECTION:
        raise ElfError(subject, f"{section.name} is compressed in an unknown way ({kind})")
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(section.data[24:], size)
    if len(data) != size:
        raise ElfError(subject, f"{section.name} is not as long as it says")
    return data


def walk(entry: Entry, into: Callable[[Entry], bool] = lambda _: True) -> Iterator[Entry]:
    """An entry and all below it; below those that `into` denies nothing is visited."""
    yield entry
    for child in entry.children:
        if into(child):
            yield from walk(child, into)
