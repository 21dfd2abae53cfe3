# SPDX-License-Identifier: GPL-2.0-or-later
"""What the segments of a unit declare, and what they need of one another: asked of libclang.

libclang reads what the distribution's compiler has preprocessed, so it decides no condition and
expands no macro itself, and needs none of the compiler's options.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile

from clang import cindex
from clang.cindex import CursorKind

from livegraft.errors import Reason, Refused
from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.segments import Kind, Segment

_OPTIONS = ("-x", "c", "-std=gnu11", "-undef", "-w", "-ferror-limit=20", "-fno-spell-checking")
_TARGET = "--target=x86_64-linux-gnu"

_STAND_INS = ("-D__builtin_has_attribute(what, attribute)=0", "-D__seg_gs=", "-D__seg_fs=")
"""For what GCC alone knows; the values do not matter, for nothing is compiled here."""

_TYPES = frozenset(
    (
        *(CursorKind.STRUCT_DECL, CursorKind.UNION_DECL, CursorKind.ENUM_DECL),
        *(CursorKind.TYPEDEF_DECL, CursorKind.FIELD_DECL, CursorKind.ENUM_CONSTANT_DECL),
    )
)
_SYMBOLS = frozenset((CursorKind.FUNCTION_DECL, CursorKind.VAR_DECL))
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPORT = re.compile(r"__ksymtab|\.export_symbol")
_UNKNOWN_BUILTIN = re.compile(r"use of unknown builtin '(\w+)'")
_CLEANUP = re.compile(r"\b(?:__)?cleanup(?:__)?\s*\(\s*(\w+)")
"""A function that is named in an attribute, which libclang does not look into."""


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """A function or variable, as one segment declares it.

    Args:
        name: its name.
        segment: where.
        is_function: whether it is a function.
        is_definition: whether it is the definition.
        is_static: whether other units cannot see it.
        is_constant: of a variable, whether nobody may write it.
        is_in_header: whether a header declares it as well.
        type: of a variable its type, as C writes it; empty if it has no name.
        cursor: libclang's view of it.
    """

    name: str
    segment: Segment
    is_function: bool
    is_definition: bool
    is_static: bool
    is_constant: bool
    is_in_header: bool
    type: str
    cursor: cindex.Cursor


@dataclass(slots=True)
class Needs:
    """What a declaration or a segment needs.

    Args:
        names: functions and variables of the unit's own file.
        segments: those that declare the types.
    """

    names: set[str] = field(default_factory=set)
    segments: set[Segment] = field(default_factory=set)


class Syntax:
    """A parsed unit.

    Args:
        unit: what to call it.
        preprocessed: what the preprocessor made of it.
        segments: those of its own file.
        parsed: what :func:`parse` has made of it, if it was asked already.

    Raises:
        Refused: libclang cannot parse it (rule ``not-parsed``).
    """

    def __init__(
        self,
        unit: str,
        preprocessed: Preprocessed,
        segments: Sequence[Segment],
        parsed: cindex.TranslationUnit | None = None,
    ) -> None:
        self._preprocessed = preprocessed
        self._segments = segments
        self._first = [each.line for each in segments]
        self._cursors: dict[Segment, list[cindex.Cursor]] = defaultdict(list)
        self.declared: dict[Segment, list[Declaration]] = defaultdict(list)
        self.by_name: dict[str, list[Declaration]] = defaultdict(list)
        self.included: list[str] = []
        """Static variables of the files that it includes, which are no constants."""
        self._known: dict[int, Needs] = {}
        self._words: dict[int, list[str]] = {}
        self._types: dict[str, Segment] = {}
        self._unit = parse(unit, preprocessed) if parsed is None else parsed
        for cursor in self._unit.cursor.get_children():
            segment = self._segment_at(cursor.location.offset)
            if segment is not None:
                self._cursors[segment].append(cursor)
                if cursor.kind in _SYMBOLS:
                    self._declare(cursor, segment)
                elif cursor.kind in _TYPES:
                    self._name_type(cursor, segment)
            elif cursor.kind is CursorKind.VAR_DECL and _is_static_variable(cursor):
                self.included.append(cursor.spelling)

    def _declare(self, cursor: cindex.Cursor, segment: Segment) -> None:
        canonical = cursor.canonical
        found = Declaration(
            cursor.spelling,
            segment,
            cursor.kind is CursorKind.FUNCTION_DECL,
            cursor.is_definition() or _is_tentative(cursor),
            cursor.linkage is cindex.LinkageKind.INTERNAL,
            _is_constant(cursor),
            self._segment_at(canonical.location.offset) is None,
            _spelling(cursor),
            cursor,
        )
        self.declared[segment].append(found)
        self.by_name[found.name].append(found)

    def _name_type(self, cursor: cindex.Cursor, segment: Segment) -> None:
        if cursor.kind is not CursorKind.ENUM_DECL or cursor.spelling:
            self._types.setdefault(cursor.spelling, segment)
        if cursor.is_definition():
            self._types[cursor.spelling] = segment
        if cursor.kind is CursorKind.ENUM_DECL:
            for each in cursor.get_children():
                self._types[each.spelling] = segment

    def definition(self, name: str) -> Declaration | None:
        """Where the unit's own file defines a function or variable."""
        found = [each for each in self.by_name.get(name, ()) if each.is_definition]
        return next((each for each in found if each.cursor.is_definition()), None) or (
            found[0] if found else None
        )

    def words(self, segment: Segment) -> list[str]:
        """What the preprocessor made of a segment, a function's body left out."""
        if not self._words:
            for line, word in self._preprocessed.words():
                self._words.setdefault(line, []).append(word)
        lines = range(segment.line, segment.last + 1)
        found = [word for line in lines for word in self._words.get(line, ())]
        is_function = segment.kind is Kind.FUNCTION
        return list(takewhile(lambda word: word != "{", found)) if is_function else found

    def exports(self, segment: Segment) -> bool:
        """Whether it is ``EXPORT_SYMBOL()``: by the sections that it fills (linux/export.h)."""
        return any(_EXPORT.search(word) for word in self.words(segment) if word.startswith('"'))

    def is_type(self, segment: Segment) -> bool:
        """Whether a segment declares types and nothing else."""
        return bool(self._cursors.get(segment)) and not self.declared.get(segment)

    def needs(self, segment: Segment) -> Needs:
        """What all of a segment needs."""
        result = Needs()
        for cursor in self._cursors.get(segment, ()):
            found = self._needs(cursor)
            result.names |= found.names
            result.segments |= found.segments
        result.segments.discard(segment)
        return result

    def needs_of_type(self, declaration: Declaration) -> Needs:
        """What a declaration needs without the body or the initial value."""
        result = Needs()
        left_out = _value(declaration.cursor)
        for child in declaration.cursor.get_children():
            is_value = left_out is not None and child == left_out
            if child.kind is not CursorKind.COMPOUND_STMT and not is_value:
                self._walk(child, result)
        result.segments.discard(declaration.segment)
        return result

    def needs_of_includes(self) -> Iterator[Needs]:
        """What is needed by files that are included behind the first declaration.

        By the words in them: ``#include "itree_common.c"`` uses a type of the file around it.
        """
        kinds = (Kind.FUNCTION, Kind.OTHER)
        first = min((each.line for each in self._segments if each.kind in kinds), default=0)
        for line, text in self._preprocessed.included():
            if line < first or not first:
                continue
            words = set(_WORD.findall(text))
            segments = {self._types[word] for word in words & self._types.keys()}
            yield Needs(words & self.by_name.keys(), segments)

    def _needs(self, cursor: cindex.Cursor) -> Needs:
        key = cursor.location.offset
        if key not in self._known:
            self._known[key] = Needs()
            self._walk(cursor, self._known[key])
            start, end = cursor.extent.start.offset, cursor.extent.end.offset
            text = self._preprocessed.text[start:end]
            self._known[key].names.update(
                name for name in _CLEANUP.findall(text) if name in self.by_name
            )
        return self._known[key]

    def _walk(self, cursor: cindex.Cursor, into: Needs) -> None:
        for node in cursor.walk_preorder():
            target = node.referenced
            if target is None:
                continue
            if target.kind in _SYMBOLS:
                name = target.spelling
                if name in self.by_name and _is_at_top(target):
                    into.names.add(name)
            elif target.kind in _TYPES:
                for each in (target, target.get_definition()):
                    segment = each and self._segment_at(each.location.offset)
                    if segment is not None:
                        into.segments.add(segment)

    def _segment_at(self, offset: int) -> Segment | None:
        line = self._preprocessed.line(offset)
        number = bisect_right(self._first, line) - 1
        if not line or number < 0 or line > self._segments[number].last:
            return None
        return self._segments[number]


def _is_tentative(cursor: cindex.Cursor) -> bool:
    """``static int count;``, which is the definition unless another one has a value."""
    is_variable = cursor.kind is CursorKind.VAR_DECL
    return is_variable and cursor.storage_class is not cindex.StorageClass.EXTERN


def _is_constant(cursor: cindex.Cursor) -> bool:
    """Whether nobody may write a variable."""
    kind = cursor.type
    while kind.kind is cindex.TypeKind.CONSTANTARRAY:
        kind = kind.element_type
    return bool(kind.is_const_qualified())


def _is_static_variable(cursor: cindex.Cursor) -> bool:
    is_static = cursor.storage_class is cindex.StorageClass.STATIC
    return is_static and not _is_constant(cursor)


def _is_at_top(cursor: cindex.Cursor) -> bool:
    parent = cursor.semantic_parent
    return parent is not None and parent.kind is CursorKind.TRANSLATION_UNIT


def _spelling(cursor: cindex.Cursor) -> str:
    """A variable's type; empty if it, or a part of it, has no name."""
    text: str = cursor.type.spelling
    return "" if "(unnamed" in text or "(anonymous" in text else text


def _value(cursor: cindex.Cursor) -> cindex.Cursor | None:
    """A variable's initial value."""
    found: cindex.Cursor = _library().clang_Cursor_getVarDeclInitializer(cursor)
    return None if found is None or found.kind is CursorKind.INVALID_FILE else found


@cache
def _library() -> cindex.CDLL:
    library = cindex.conf.lib
    function = library.clang_Cursor_getVarDeclInitializer
    function.argtypes = [cindex.Cursor]
    function.restype = cindex.Cursor
    return library


def parse(unit: str, preprocessed: Preprocessed) -> cindex.TranslationUnit:
    """What libclang makes of a unit.

    Args:
        unit: what to call it.
        preprocessed: what the preprocessor made of it.

    Raises:
        Refused: libclang cannot parse it (rule ``not-parsed``).
    """
    name = "unit.i"
    builtins: frozenset[str] = frozenset()
    while True:
        # Of a builtin function that GCC alone has, what stands in its parentheses is looked at.
        more = [f"-D{each}(...)=(__VA_ARGS__)" for each in sorted(builtins)]
        parsed = cindex.Index.create().parse(
            name,
            args=[*_OPTIONS, _TARGET, *_STAND_INS, *more],
            unsaved_files=[(name, preprocessed.text)],
        )
        unknown = {
            found[1]
            for each in parsed.diagnostics
            if (found := _UNKNOWN_BUILTIN.search(each.spelling)) is not None
        }
        if unknown <= builtins:
            break
        builtins |= unknown
    reasons = list(_errors(unit, parsed, preprocessed))
    if reasons:
        raise Refused(unit, reasons)
    return parsed


def _errors(
    unit: str, parsed: cindex.TranslationUnit, preprocessed: Preprocessed
) -> Iterator[Reason]:
    for each in parsed.diagnostics:
        if each.severity >= cindex.Diagnostic.Error:
            line = preprocessed.line(each.location.offset)
            place = f"{unit}:{line}" if line else unit
            yield Reason(
                "not-parsed",
                place,
                f"libclang does not understand it: {each.spelling}",
                "prepare the patch with --method compare",
            )
