# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict of the proof on each function and variable of a unit."""

from __future__ import annotations

import numpy as np

from livegraft.elf.object import ElfObject, Symbol, SymbolType
from livegraft.kbuild.difference import Difference
from livegraft.kbuild.meaning import Meaning
from livegraft.kbuild.placing import telling
from livegraft.kernel.shipped import Shipped


class Judgement:
    """Judges each function and variable of a unit.

    Args:
        meaning: what the unit's symbols mean in the shipped object.
        differences: what differs, per section number.

    Attributes:
        places: where each symbol is, by name.
        proven: functions whose code is the shipped code.
        discarded: functions that are not linked, and why.
        differing: functions, or else variables, that differ, and how.
    """

    def __init__(self, meaning: Meaning, differences: dict[int, Difference]) -> None:
        self.unit: ElfObject = meaning.unit
        self.shipped: Shipped = meaning.shipped
        self.layout = meaning.layout
        self.meaning = meaning
        self.differences = differences
        self.places: dict[str, int] = {}
        self.proven: list[str] = []
        self.discarded: dict[str, str] = {}
        self.differing: dict[str, str] = {}

    def judge(self) -> None:
        """Judge every function; and every variable if no function differs."""
        functions = [s for s in self.unit.symbols if s.in_section and s.type == SymbolType.FUNC]
        for symbol in functions:
            self._judge_function(symbol)
        for number, difference in self.differences.items():
            self._judge_rest(number, difference, self.unit.sections[number].is_code)
        if not self.differing:
            for number in self.differences:
                if len(self.layout.stretches[number]) > 1:
                    name = self.unit.sections[number].name
                    self.differing[name] = "its symbols are not where they are here"
        self._collect_places()

    def _judge_function(self, symbol: Symbol) -> None:
        section = self.unit.sections[symbol.section]
        place = self.layout.place(symbol.section, symbol.value)
        if not section.is_alloc or section.name.startswith(".discard"):
            self.discarded[symbol.name] = f"lies in {section.name}, which is not linked"
        elif not (known := self.shipped.symbols.places(symbol.name)):
            self.differing[symbol.name] = f"is not in {self.shipped.object}"
        elif place is None:
            how = f"its place in {self.shipped.object} cannot be told from others"
            self.differing[symbol.name] = how
        elif difference := self._how(symbol.section, symbol.value, symbol.size):
            self.differing[symbol.name] = difference
        elif symbol.name in self.meaning.overridden:
            pass
        elif place not in known:
            self.differing[symbol.name] = f"is not in {self.shipped.object} at its place"
        else:
            self.proven.append(symbol.name)

    def _how(self, section: int, start: int, size: int) -> str | None:
        """How a range of a section differs; None if it does not."""
        difference = self.differences.get(section)
        if difference is None:
            return "has no code there"
        bytes_differ = np.flatnonzero(difference.bytes_differ[start : start + size])
        wrong = {at: to for at, to in difference.references.items() if start <= at < start + size}
        if len(bytes_differ):
            first = int(bytes_differ[0])
            return f"{len(bytes_differ)} of {size} bytes differ, the first at +{first:#x}"
        if wrong:
            first = min(wrong)
            return f"refers to something else than {wrong[first]} at +{first - start:#x}"
        return None

    def _judge_rest(self, number: int, difference: Difference, is_code: bool) -> None:
        """What differs outside of functions: padding, code in assembly, variables."""
        differ = difference.bytes_differ.copy()
        differ[list(difference.references)] = True
        owners = [s for s in self.unit.symbols if s.section == number and telling(s) and s.size]
        if is_code:
            for symbol in owners:
                if symbol.type == SymbolType.FUNC:
                    differ[symbol.value : symbol.value + symbol.size] = False
        if self.differing and not (is_code and owners):
            return  # a function that differs moves variables too: it is what has to be named
        for offset in np.flatnonzero(differ).tolist():
            before = [s for s in owners if s.value <= offset]
            owner = max(before, key=lambda s: s.value, default=None)
            name = owner.name if owner else self.unit.sections[number].name
            start = owner.value if owner else 0
            self.differing.setdefault(name, f"differs at +{offset - start:#x}")

    def _collect_places(self) -> None:
        twice: set[str] = set()
        for symbol in self.unit.symbols:
            if telling(symbol):
                place = self.layout.place(symbol.section, symbol.value)
                if place is None:
                    continue
                if self.places.setdefault(symbol.name, place) != place:
                    twice.add(symbol.name)
        for name in twice:
            del self.places[name]
