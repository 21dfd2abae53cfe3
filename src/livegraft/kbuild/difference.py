# SPDX-License-Identifier: GPL-2.0-or-later
"""How a unit's sections differ from the shipped code, byte by byte."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from livegraft.elf.object import ElfObject, Section
from livegraft.kbuild.jumplabels import jump_sites, turned_into_nop
from livegraft.kbuild.meaning import Meaning, References, wrong, wrong_contents
from livegraft.kbuild.placing import Layout, Stretch
from livegraft.kernel.shipped import FIELD_SIZE, Bytes, Flags, Relocation, Shipped

_LONGEST_JUMP = 5


@dataclass(slots=True)
class Difference:
    """What differs in one section.

    Args:
        bytes_differ: per byte of the section, whether it differs outside of relocations.
        references: offset of a relocation field whose meaning differs -> what it means here.
    """

    bytes_differ: Flags
    references: dict[int, str] = field(default_factory=dict)


def parts(unit: ElfObject, layout: Layout, section: int) -> list[tuple[int, int, int]]:
    """The stretches of a section as (start, end, place of the start)."""
    stretches = layout.stretches.get(section, [])
    ends = [stretch.start for stretch in stretches[1:]] + [unit.sections[section].size]
    return [
        (stretch.start, end, stretch.base + stretch.start)
        for stretch, end in zip(stretches, ends, strict=True)
    ]


def compare_bytes(
    unit: ElfObject, shipped: Shipped, layout: Layout, sections: list[int]
) -> dict[int, Difference]:
    """Compare the contents of placed sections outside of relocation fields and jump label sites."""
    sites = jump_sites(unit)
    result = {}
    for number in sections:
        section = unit.sections[number]
        if not section.data:
            continue
        ours = np.frombuffer(section.data, dtype=np.uint8)
        theirs, missing = _shipped_bytes(unit, shipped, layout, number)
        differ = ours != theirs
        if shipped.fields_hold_values:
            differ &= ~_fields(section)
        differ |= missing
        if differ.any() and number in sites:
            _forgive_nops(differ, ours, theirs, sites[number])
        if differ.any() and len(layout.stretches[number]) > 1:
            _forgive_moved_jumps(differ, ours, theirs, layout, number)
        result[number] = Difference(differ)
    return result


def compare_references(
    meaning: Meaning, references: References, differences: dict[int, Difference]
) -> None:
    """Add what the unit's relocations and the shipped code's fields disagree about."""
    unit, shipped = meaning.unit, meaning.shipped
    sites = {number: set(offsets) for number, offsets in jump_sites(unit).items()}
    bad = wrong(meaning, references) | wrong_contents(meaning, references)
    for reference in references[bad]:
        number, offset = int(reference["section"]), int(reference["offset"])
        place = meaning.layout.place(number, offset - 1)
        if offset - 1 in sites.get(number, ()) and place is not None:
            # A jump to another section, as part of a jump label site.
            theirs = shipped.contents(place, _LONGEST_JUMP)
            ours = unit.sections[number].data[offset - 1 : offset - 1 + _LONGEST_JUMP]
            if theirs is not None and turned_into_nop(ours, theirs.tobytes()):
                continue
        differences[number].references[offset] = _name(unit, int(reference["symbol"]))


def fitting(unit: ElfObject, shipped: Shipped, layout: Layout) -> list[int]:
    """Place sections that may be in several places, if their contents fit just one of them.

    Returns:
        the sections that were placed now.
    """
    placed = []
    for number, bases in list(layout.candidates.items()):
        section = unit.sections[number]
        fits = [base for base in bases if section.data and _fits(unit, shipped, number, base)]
        if len(fits) == 1:
            layout.settle(number, fits[0])
            placed.append(number)
    return placed


def _fits(unit: ElfObject, shipped: Shipped, number: int, base: int) -> bool:
    """Whether a section may be at a place: equal bytes, and references to what others define."""
    section = unit.sections[number]
    trial = Layout({number: [Stretch(0, base)]})
    if compare_bytes(unit, shipped, trial, [number])[number].bytes_differ.any():
        return False
    meanings = shipped.meanings(base, section.size, section.relocations)
    for at, relocation in enumerate(section.relocations):
        symbol = unit.symbols[int(relocation["symbol"])]
        if symbol.is_undefined and meanings.known[at]:
            place = int(meanings.places[at]) - int(relocation["addend"]) & 0xFFFFFFFFFFFFFFFF
            if place not in shipped.external(symbol.name):
                return False
    return True


def _shipped_bytes(
    unit: ElfObject, shipped: Shipped, layout: Layout, number: int
) -> tuple[Bytes, Flags]:
    """The shipped bytes of a section, part by part, and where there are none."""
    size = unit.sections[number].size
    found = np.zeros(size, dtype=np.uint8)
    missing = np.zeros(size, dtype=np.bool_)
    for start, end, place in parts(unit, layout, number):
        contents = shipped.contents(place, end - start)
        if contents is None:
            missing[start:end] = True
        else:
            found[start:end] = contents
    return found, missing


def _fields(section: Section) -> Flags:
    """The bytes that relocations fill."""
    mask = np.zeros(section.size + 8, dtype=np.bool_)
    for kind in np.unique(section.relocations["type"]).tolist():
        offsets = section.relocations["offset"][section.relocations["type"] == kind]
        width = FIELD_SIZE[Relocation(kind)]
        mask[offsets.astype(np.int64)[:, None] + np.arange(width)] = True
    return mask[: section.size]


def _forgive_nops(differ: Flags, ours: Bytes, theirs: Bytes, sites: tuple[int, ...]) -> None:
    for site in sites:
        end = site + _LONGEST_JUMP
        length = turned_into_nop(ours[site:end].tobytes(), theirs[site:end].tobytes())
        differ[site : site + length] = False


def _forgive_moved_jumps(
    differ: Flags, ours: Bytes, theirs: Bytes, layout: Layout, number: int
) -> None:
    """Take out jumps and calls within a section whose target moved together with its symbol.

    The assembler resolves them without a relocation. Only a section that is not in one stretch has
    them, so this tells the function that differs from those that were moved by it; it never makes
    a proof succeed.
    """
    at = 0
    while at < len(differ):
        if not differ[at]:
            at += 1
            continue
        for start in range(max(at - 3, 1), at + 1):
            if _is_branch(ours, start) and _same_target(ours, theirs, layout, number, start):
                differ[start : start + 4] = False
                break
        at += 1


def _is_branch(ours: Bytes, start: int) -> bool:
    """Whether the four bytes at `start` may be the distance of a call, a jump or a branch."""
    if start + 4 > len(ours):
        return False
    if ours[start - 1] in (0xE8, 0xE9):
        return True
    return start > 1 and bool(ours[start - 2] == 0x0F and ours[start - 1] & 0xF0 == 0x80)


def _same_target(ours: Bytes, theirs: Bytes, layout: Layout, number: int, start: int) -> bool:
    end = start + 4
    target = end + int.from_bytes(ours[start:end].tobytes(), "little", signed=True)
    place = layout.place(number, end)
    expected = layout.place(number, target) if 0 <= target < len(ours) else None
    if place is None or expected is None:
        return False
    return place + int.from_bytes(theirs[start:end].tobytes(), "little", signed=True) == expected


def _name(unit: ElfObject, number: int) -> str:
    symbol = unit.symbols[number]
    return symbol.name or unit.sections[symbol.section].name
