# SPDX-License-Identifier: GPL-2.0-or-later
"""Which segments of a unit its live patch needs, and which become declarations.

The objects say what is patched and what the compiler has inlined; the syntax says what needs what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from livegraft.extract.segments import Kind, Segment, identifiers
from livegraft.extract.syntax import Declaration, Needs, Syntax


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the objects say.

    Args:
        patched: functions that the running kernel is led to.
        shared: new functions that other units may call.
        changed: functions whose code differs or is new, by their names in the source: never those
            of the running kernel.
        running: functions and variables of the unit that the running kernel has and that did not
            change, by their names in the source.
        referred: by function, the names in the source that its code in the patched object still
            refers to: what it needs and does not refer to was inlined, or is never reached.
    """

    patched: Collection[str]
    shared: Collection[str]
    changed: Collection[str]
    running: Collection[str]
    referred: Mapping[str, Collection[str]]


@dataclass(slots=True)
class Selection:
    """What of a unit is taken.

    Args:
        whole: segments that are taken as they are.
        declared: functions and variables of the running kernel, by name.
    """

    whole: set[Segment] = field(default_factory=set)
    declared: dict[str, Declaration] = field(default_factory=dict)


def select(
    text: str,
    segments: Collection[Segment],
    syntax: Syntax,
    wanted: Wanted,
    marks: str,
    *,
    generous: bool = False,
) -> Selection:
    """Follow what is needed from the patched functions on.

    Args:
        text: the unit's file.
        marks: what a segment begins with that is always taken (``LIVEGRAFT_``).
        generous: take all macros and types, not only those that are seen to be needed.
    """
    return _Selector(text, segments, syntax, wanted).run(marks, generous)


class _Selector:
    def __init__(
        self, text: str, segments: Collection[Segment], syntax: Syntax, wanted: Wanted
    ) -> None:
        self._text = text
        self._segments = segments
        self._syntax = syntax
        self._wanted = wanted
        self._result = Selection()
        self._hosts: dict[str, set[str]] = {}
        """By function that is taken whole, the functions of the object in which its code is."""
        self._work: list[tuple[str, str]] = []

    def run(self, marks: str, generous: bool) -> Selection:
        for name in (*self._wanted.patched, *self._wanted.shared):
            self._define(name, name)
        for needs in self._syntax.needs_of_includes():
            self._follow(needs, "")
        for segment in self._segments:
            if segment.kind is Kind.OTHER and self._text.startswith(marks, segment.start):
                self._take(segment)
        if generous:
            self._take_types()
        while self._work:
            name, host = self._work.pop()
            definition = self._syntax.definition(name)
            assert definition is not None
            self._follow(self._syntax.needs(definition.segment), host)
        self._drop_declared()
        self._take_macros(generous)
        return self._result

    def _define(self, name: str, host: str) -> None:
        """Take a function or variable with its definition, whose code is a part of `host`."""
        definition = self._syntax.definition(name)
        if definition is None:
            return  # of a header, or of a file that is included
        self._result.whole.add(definition.segment)
        for each in self._syntax.declared[definition.segment]:
            if not each.is_definition:
                continue
            hosts = self._hosts.setdefault(each.name, set())
            if host not in hosts:
                hosts.add(host)
                self._work.append((each.name, host))

    def _take(self, segment: Segment) -> None:
        """Take a segment that is no function."""
        if segment not in self._result.whole:
            self._result.whole.add(segment)
            self._follow(self._syntax.needs(segment), "")

    def _follow(self, needs: Needs, host: str) -> None:
        for segment in needs.segments:
            self._take_type(segment)
        for name in needs.names:
            self._need(name, host)

    def _take_types(self) -> None:
        """All types of the file."""
        for segment in self._segments:
            if segment.kind is Kind.OTHER and self._syntax.is_type(segment):
                self._take(segment)

    def _take_type(self, segment: Segment) -> None:
        if segment.kind is Kind.OTHER:
            self._take(segment)

    def _need(self, name: str, host: str) -> None:
        if name in self._wanted.changed:
            self._define(name, name)
            return
        definition = self._syntax.definition(name)
        if definition is None:
            # Defined by another unit, or by a file that is included: as the text declares it.
            for each in self._syntax.by_name[name]:
                if not self._syntax.exports(each.segment):
                    self._take(each.segment)
            return
        if name not in self._wanted.running:
            self._define(name, host)
            return
        known = self._wanted.referred.get(host)
        is_copyable = definition is not None and (definition.is_function or definition.is_constant)
        if is_copyable and known is not None and name not in known:
            self._define(name, host)
        else:
            self._declare(name, definition)

    def _declare(self, name: str, best: Declaration) -> None:
        if name in self._result.declared:
            return
        if not is_declarable(best, self._text, self._syntax):
            self._define(name, "")
            return
        self._result.declared[name] = best
        if not best.is_in_header:
            self._follow(self._syntax.needs_of_type(best), "")

    def _drop_declared(self) -> None:
        """What is taken whole needs no other declaration."""
        for segment in self._result.whole:
            for each in self._syntax.declared[segment]:
                if each.is_definition:
                    self._result.declared.pop(each.name, None)

    def _take_macros(self, is_all: bool) -> None:
        """Macros that are mentioned by what is taken, and those that an include may look at."""
        last = max((each.start for each in self._segments if each.kind is Kind.INCLUDE), default=0)
        macros = [each for each in self._segments if each.kind is Kind.MACRO]
        mentioned: set[str] = set()
        taken = {each for each in macros if is_all or each.start < last}
        work = [*self._result.whole, *taken, *(d.segment for d in self._result.declared.values())]
        while work:
            segment = work.pop()
            mentioned.update(identifiers(self._text[segment.start : segment.end]))
            more = [each for each in macros if each not in taken and each.name in mentioned]
            taken.update(more)
            work += more
        self._result.whole |= taken


def is_declarable(declaration: Declaration, text: str, syntax: Syntax) -> bool:
    """Whether a declaration can stand for it: not for what a macro makes, or without a type."""
    segment = declaration.segment
    if not declaration.is_function:
        return bool(declaration.type) or declaration.is_in_header
    if declaration.is_in_header:
        return True
    head = text[segment.start : segment.body]
    return (
        segment.kind is Kind.FUNCTION
        and "#" not in head  # a condition in it
        and segment.name == declaration.name
        and len(syntax.declared[segment]) == 1
    )
