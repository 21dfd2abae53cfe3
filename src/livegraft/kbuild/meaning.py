# SPDX-License-Identifier: GPL-2.0-or-later
"""What a unit's relocations mean in the unit, and what they mean in the shipped code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from livegraft.elf.header import SectionFlag
from livegraft.elf.object import Binding, ElfObject, Relocations, SymbolType
from livegraft.kbuild.placing import Layout, place_by_reference
from livegraft.kernel.shipped import RELATIVE, Flags, Places, Relocation, Shipped

REFERENCE = np.dtype(
    [
        ("section", "u4"),
        ("offset", "u8"),
        ("type", "u4"),
        ("symbol", "u4"),
        ("addend", "i8"),
        ("found", "u8"),
        ("known", "?"),
    ]
)
"""A relocation of the unit: where it is, what it is, and S + A of the shipped code there."""

_NARROW = [Relocation.PC32, Relocation.PLT32]
"""Relative fields of 32 bits."""

References = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class SymbolArrays:
    """The unit's symbols as arrays.

    Args:
        section: section number; 0 for undefined ones.
        value: offset in the section.
        merged: whether the linker may merge its section's contents with equal ones.
        is_section: whether it stands for a section's start.
        outside: whether its place is another object's or another unit's affair.
    """

    section: npt.NDArray[np.uint32]
    value: Places
    merged: Flags
    is_section: Flags
    outside: Flags


def symbol_arrays(unit: ElfObject) -> SymbolArrays:
    """The arrays of an object's symbols."""
    merging = [bool(section.flags & SectionFlag.MERGE) for section in unit.sections]
    numbers = [symbol.section if symbol.in_section else 0 for symbol in unit.symbols]
    return SymbolArrays(
        np.array(numbers, dtype=np.uint32),
        np.array([symbol.value for symbol in unit.symbols], dtype=np.uint64),
        np.array([merging[number] for number in numbers], dtype=np.bool_),
        np.array([symbol.type == SymbolType.SECTION for symbol in unit.symbols], dtype=np.bool_),
        np.array(
            [s.is_undefined or s.binding == Binding.WEAK for s in unit.symbols], dtype=np.bool_
        ),
    )


def references_of(
    shipped: Shipped, section: int, place: int, size: int, relocations: Relocations
) -> tuple[References, Places]:
    """The references from a stretch of a section, and offsets of those that only the shipped
    code has.

    Args:
        place: where the stretch is in the shipped code.
        size: its size in bytes.
        relocations: those of the stretch, with offsets from its start.
    """
    meanings = shipped.meanings(place, size, relocations)
    result = np.zeros(len(relocations), dtype=REFERENCE)
    result["section"] = section
    for name in ("offset", "type", "symbol", "addend"):
        result[name] = relocations[name]
    result["found"] = meanings.places
    result["known"] = meanings.known
    return result, meanings.extra


def follow(layout: Layout, symbols: SymbolArrays, references: References) -> list[int]:
    """Place sections that placed code refers to; returns those that were placed."""
    section = symbols.section[references["symbol"]]
    usable = references["known"] & (section != 0) & ~symbols.merged[references["symbol"]]
    usable &= ~symbols.outside[references["symbol"]]
    usable &= ~np.isin(section, list(layout.stretches))
    chosen = references[usable]
    return place_by_reference(
        layout,
        section[usable].astype(np.uint64),
        symbols.value[chosen["symbol"]],
        chosen["found"] - chosen["addend"].astype(np.uint64),
    )


class Meaning:
    """What each symbol of the unit means in the shipped object.

    Args:
        places: per symbol, its place; whatever where ``known`` is false.
        known: per symbol, whether it has one.
    """

    def __init__(
        self, unit: ElfObject, symbols: SymbolArrays, shipped: Shipped, layout: Layout
    ) -> None:
        self.unit = unit
        self.symbols = symbols
        self.shipped = shipped
        self.layout = layout
        self.places = np.zeros(len(unit.symbols), dtype=np.uint64)
        self.known = np.zeros(len(unit.symbols), dtype=np.bool_)
        self.externals: dict[str, int] = {}
        self.overridden: set[str] = set()

    def settle(self, references: References) -> None:
        """Give each symbol its place, once the layout is final."""
        observed = self._observed(references)
        for number, symbol in enumerate(self.unit.symbols):
            place = None
            if symbol.in_section:
                place = self.layout.place(symbol.section, symbol.value)
                if symbol.binding == Binding.WEAK:
                    place = self._weak(symbol.name, place, observed.get(number))
            elif symbol.is_undefined and symbol.name:
                place = self._external(symbol.name, observed.get(number))
                if place is None and symbol.binding == Binding.WEAK:
                    place = 0  # nobody defines it
            elif symbol.type != SymbolType.FILE:
                place = symbol.value
            if place is not None:
                self.places[number] = place & 0xFFFFFFFFFFFFFFFF
                self.known[number] = True

    def _observed(self, references: References) -> dict[int, Counter[int]]:
        """Per symbol of others, the places that the shipped code has for it, with their counts."""
        chosen = references[references["known"] & self.symbols.outside[references["symbol"]]]
        places = chosen["found"] - chosen["addend"].astype(np.uint64)
        observed: dict[int, Counter[int]] = {}
        pairs = zip(chosen["symbol"].tolist(), places.tolist(), strict=True)
        for (number, place), count in Counter(pairs).items():
            observed.setdefault(number, Counter())[place] = count
        return observed

    def _weak(self, name: str, own: int | None, observed: Counter[int] | None) -> int | None:
        if own is not None and own in self.shipped.symbols.places(name):
            return own
        self.overridden.add(name)
        return self._external(name, observed)

    def _external(self, name: str, observed: Counter[int] | None) -> int | None:
        """The place of a symbol of others: among several of that name, the one that is used."""
        possible = self.shipped.external(name)
        used = [place for place, _ in observed.most_common()] if observed else []
        if not possible and used and self.shipped.lacks(name):
            possible = (used[0],)  # which each of its references then has to agree with
        if not possible:
            return None
        place = next((place for place in used if place in possible), possible[0])
        if used:
            self.externals[name] = place
        return place


def wrong(meaning: Meaning, references: References) -> Flags:
    """Which references mean something else in the shipped code.

    Fields of 32 bits are compared modulo 2**32: a reference to a per-CPU offset from code wraps.
    Those into merged sections are left to :func:`wrong_contents`.
    """
    symbol = references["symbol"]
    expected = meaning.places[symbol] + references["addend"].astype(np.uint64)
    _follow_stretches(meaning, references, expected)
    different = expected != references["found"]
    narrow = np.isin(references["type"], _NARROW)
    different &= ~narrow | ((expected ^ references["found"]).astype(np.uint32) != 0)
    merged = meaning.symbols.merged[symbol]
    result: Flags = ~references["known"] | (~merged & (different | ~meaning.known[symbol]))
    return result


def _follow_stretches(meaning: Meaning, references: References, expected: Places) -> None:
    """Correct what a reference by a section symbol means in a section of several stretches."""
    split = [number for number, found in meaning.layout.stretches.items() if len(found) > 1]
    symbol = references["symbol"]
    by_section = meaning.symbols.is_section[symbol]
    by_section &= np.isin(meaning.symbols.section[symbol], split)
    for at in np.flatnonzero(by_section).tolist():
        reference = references[at]
        addend = int(reference["addend"])
        # A relative field is at the end of its instruction, or nearly so.
        offset = addend + 4 if reference["type"] in RELATIVE else addend
        section = int(meaning.symbols.section[int(reference["symbol"])])
        place = meaning.layout.place(section, offset)
        if place is not None:
            expected[at] = place - offset + addend & 0xFFFFFFFFFFFFFFFF


def wrong_contents(meaning: Meaning, references: References) -> Flags:
    """Which references into merged sections find other contents in the shipped code.

    The linker puts each string or constant once. A reference by a section symbol counts its addend
    to find it; one by a name (``.LC5``) does not.
    """
    symbols = meaning.symbols
    result = np.zeros(len(references), dtype=np.bool_)
    verdicts: dict[tuple[int, int, int], bool] = {}
    for at in np.flatnonzero(symbols.merged[references["symbol"]] & references["known"]).tolist():
        reference = references[at]
        number, addend = int(reference["symbol"]), int(reference["addend"])
        offset, place = int(symbols.value[number]), int(reference["found"])
        if symbols.is_section[number]:
            if reference["type"] in RELATIVE:
                result[at] = True  # as never: its offset cannot be told from its addend
                continue
            offset += addend
        else:
            place = place - addend & 0xFFFFFFFFFFFFFFFF
        key = (int(symbols.section[number]), offset, place)
        if key not in verdicts:
            verdicts[key] = _same_contents(meaning, *key)
        result[at] = not verdicts[key]
    return result


def _same_contents(meaning: Meaning, section: int, offset: int, place: int) -> bool:
    merged = meaning.unit.sections[section]
    if merged.is_strings:
        end = merged.data.find(b"\0" * max(merged.entry_size, 1), offset)
        end = -1 if end < 0 else end + max(merged.entry_size, 1)
    else:
        end = (offset // merged.entry_size + 1) * merged.entry_size
    if not 0 <= offset < end <= merged.size:
        return False
    found = meaning.shipped.contents(place, end - offset)
    return found is not None and found.tobytes() == merged.data[offset:end]
