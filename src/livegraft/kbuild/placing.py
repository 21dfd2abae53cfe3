# SPDX-License-Identifier: GPL-2.0-or-later
"""Find where the linker put a unit's sections.

A section of a unit lies in one stretch in the shipped object. Its symbols' names tell where: names
that are rare first, then each other name has to fit. A section without telling names is found by
what the code that is already placed refers to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from livegraft.elf.object import Binding, ElfObject, Symbol, SymbolType
from livegraft.kernel.shipped import Places, Shipped

_LOCAL_LABEL = ".L"


@dataclass(slots=True)
class Stretch:
    """A part of a section that was found in one stretch.

    Args:
        start: its offset in the section.
        base: the place of the section's start, had the whole section been shipped like this part.
    """

    start: int
    base: int


@dataclass(slots=True)
class Layout:
    """Where the unit's sections are.

    Args:
        stretches: per section number, in order of offsets. More than one says that the section is
            not shipped in one stretch: something in it differs.
        candidates: bases that are still possible, for sections that are not placed yet.
    """

    stretches: dict[int, list[Stretch]] = field(default_factory=dict)
    candidates: dict[int, set[int]] = field(default_factory=dict)

    def base(self, section: int) -> int | None:
        """The place of a section that was found in one stretch."""
        found = self.stretches.get(section, ())
        return found[0].base if len(found) == 1 else None

    def place(self, section: int, offset: int) -> int | None:
        """Where the byte at `offset` of a section is."""
        found = [stretch for stretch in self.stretches.get(section, ()) if stretch.start <= offset]
        return found[-1].base + offset if found else None

    def settle(self, section: int, base: int) -> None:
        """The whole section is at that base."""
        self.stretches[section] = [Stretch(0, base)]
        self.candidates.pop(section, None)


def telling(symbol: Symbol) -> bool:
    """Whether a symbol's name can tell where its section is."""
    return bool(
        symbol.in_section
        and symbol.name
        and not symbol.name.startswith(_LOCAL_LABEL)
        and symbol.type not in (SymbolType.SECTION, SymbolType.FILE)
    )


def place_by_names(unit: ElfObject, shipped: Shipped, sections: Iterable[int]) -> Layout:
    """Place sections by the names of their symbols."""
    wanted = set(sections)
    layout = Layout()
    by_section: dict[int, list[Symbol]] = {}
    for symbol in unit.symbols:
        # A weak symbol's name may mean another unit's definition.
        if symbol.section in wanted and telling(symbol) and symbol.binding != Binding.WEAK:
            by_section.setdefault(symbol.section, []).append(symbol)
    for section, symbols in by_section.items():
        votes = [(s.value, shipped.symbols.places(s.name)) for s in symbols]
        votes = sorted((vote for vote in votes if vote[1]), key=lambda vote: len(vote[1]))
        if votes:
            _decide(layout, section, votes)
    return layout


def _decide(layout: Layout, section: int, votes: Sequence[tuple[int, tuple[int, ...]]]) -> None:
    value, places = votes[0]
    bases = {place - value for place in places}
    for value, places in votes[1:]:
        bases &= {place - value for place in places}
        if not bases:
            layout.stretches[section] = _split(votes)
            return
    if len(bases) == 1:
        layout.settle(section, bases.pop())
    else:
        layout.candidates[section] = bases


def _split(votes: Sequence[tuple[int, tuple[int, ...]]]) -> list[Stretch]:
    """The stretches of a section whose symbols do not agree, in order of offsets.

    A symbol with many places goes with the one before it if it can, else to the nearest place.
    """
    unique = Counter(places[0] - value for value, places in votes if len(places) == 1)
    current = unique.most_common(1)[0][0] if unique else min(votes[0][1]) - votes[0][0]
    stretches: list[Stretch] = []
    for value, places in sorted(votes):
        bases = [place - value for place in places]
        if current not in bases or not stretches:
            known = [base for base in bases if base in unique] or bases
            current = min(known, key=lambda base: abs(base - current))
            stretches.append(Stretch(value if stretches else 0, current))
    return stretches


def place_by_reference(
    layout: Layout, sections: Places, values: Places, implied: Places
) -> list[int]:
    """Place sections by what placed code refers to.

    Args:
        sections: per reference, the section of the unit that it goes to.
        values: per reference, the offset in that section.
        implied: per reference, the place that the shipped code has there.

    Returns:
        the sections that were placed now.
    """
    placed = []
    for section in np.unique(sections).tolist():
        chosen = sections == section
        bases = np.unique(implied[chosen] - values[chosen])
        possible = layout.candidates.get(section)
        fitting = [b for b in bases.tolist() if possible is None or b in possible]
        # What disagrees with the majority is found as a difference later.
        if len(bases) == 1 and fitting:
            layout.settle(section, fitting[0])
            placed.append(section)
        elif fitting:
            counts = Counter((implied[chosen] - values[chosen]).tolist())
            layout.settle(section, max(fitting, key=counts.__getitem__))
            placed.append(section)
    return placed
