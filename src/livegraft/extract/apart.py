# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a cut is the fix's and stays in the C file when the rest goes into a header before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from livegraft.extract.hunks import differing
from livegraft.extract.segments import Kind, Lines, Segment, identifiers
from livegraft.extract.selection import Selection, Wanted
from livegraft.extract.syntax import Declaration, Syntax

_DEFINING = (Kind.FUNCTION, Kind.OTHER)


def of_the_fix(
    text: str,
    original: str,
    segments: Sequence[Segment],
    syntax: Syntax,
    selection: Selection,
    wanted: Wanted,
) -> set[Segment]:
    """What of a selection is the fix's: what is patched, what it changes, and what needs any of it.

    If the fix changes something that an include may look at, all that stands in front of the last
    include and is no code is among it: it keeps its order.

    Args:
        text: the patched file.
        original: the file before the fix.
        segments: those of the patched file.
    """
    return _Apart(text, segments, syntax, selection).of_the_fix(original, wanted)


class _Apart:
    def __init__(
        self, text: str, segments: Sequence[Segment], syntax: Syntax, selection: Selection
    ) -> None:
        self._text = text
        self._syntax = syntax
        self._selection = selection
        self._written = [each for each in segments if self._is_written(each)]
        self._words = {each: frozenset(identifiers(self._taken(each))) for each in self._written}
        includes = [each for each in segments if each.kind is Kind.INCLUDE]
        last = includes[-1].start if includes else -1
        self._top = {
            each for each in self._written if each.start <= last and each.kind not in _DEFINING
        }

    def _taken(self, segment: Segment) -> str:
        """The text that is taken of a segment; the head of what is declared only."""
        is_head = segment.body and segment not in self._selection.whole
        return self._text[segment.start : segment.body if is_head else segment.end]

    def _is_written(self, segment: Segment) -> bool:
        if segment in self._selection.whole or segment.kind not in (*_DEFINING, Kind.MACRO):
            return True
        return bool(self._only_declared(segment))

    def _only_declared(self, segment: Segment) -> list[Declaration]:
        """The functions and variables that a segment stands for as declarations only."""
        chosen = self._selection.declared
        return [
            chosen[each.name]
            for each in self._syntax.declared.get(segment, ())
            if each.name in chosen and segment not in self._selection.whole
        ]

    def of_the_fix(self, original: str, wanted: Wanted) -> set[Segment]:
        own = {*wanted.patched, *wanted.shared}
        found = set(self._changed(original))
        found.update(each for each in self._written if own.intersection(self._defined(each)))
        while True:
            names = {name for each in found for name in self._defined(each)}
            macros = {each.name for each in found if each.kind is Kind.MACRO}
            groups = {each.groups[0] for each in found if each.groups and _is_directive(each)}
            more = {
                each
                for each in self._written
                if each not in found
                and (
                    self._needs(each, found, names)
                    or macros.intersection(self._words[each])
                    or (_is_directive(each) and groups.intersection(each.groups[:1]))
                )
            }
            if found & self._top:
                more |= self._top - found
            if not more:
                return found
            found |= more

    def _defined(self, segment: Segment) -> Iterator[str]:
        if segment in self._selection.whole:
            for each in self._syntax.declared.get(segment, ()):
                if each.is_definition:
                    yield each.name

    def _needs(self, segment: Segment, found: set[Segment], names: set[str]) -> bool:
        """Whether a segment needs what was found."""
        if segment.kind not in _DEFINING:
            return False
        if segment not in self._selection.whole:
            return any(
                each.segment in found or self._syntax.needs_of_type(each).segments & found
                for each in self._only_declared(segment)
            )
        needs = self._syntax.needs(segment)
        return bool(needs.segments & found or needs.names & names)

    def _changed(self, original: str) -> Iterator[Segment]:
        """The segments with a line that the fix changes; comments in front of them count."""
        old, new = original.splitlines(), self._text.splitlines()
        blocks = [after for _, after in differing(old, new, shift=1)]
        lines = Lines(self._text)
        for each in self._written:
            own = range(lines.at(each.comment), each.last + 1)
            if any(_meet(own, block) for block in blocks):
                yield each


def _meet(own: range, block: range) -> bool:
    """Whether lines that differ are among a segment's own; of lines that are gone, the place."""
    if block:
        return own.start < block.stop and block.start < own.stop
    return own.start < block.start < own.stop


def _is_directive(segment: Segment) -> bool:
    return segment.kind not in _DEFINING
