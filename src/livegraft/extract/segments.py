# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a C file as a row of segments: directives, definitions, declarations, with places.

Nothing is expanded. Which branches of the conditions hold is told by the preprocessor's output: a
branch of which no token comes out is not looked into, though its directives are segments too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from livegraft.fix import ctokens
from livegraft.fix.outline import function_name

_TOKEN = re.compile(
    r"""(?P<directive>^[^\S\n]*\#(?:\\\r?\n|//(?:\\\n|[^\n])*|/\*.*?\*/|[^\n])*)
    |(?P<comment>//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z))
    |(?P<space>(?:\s|\\\n)+)
    |(?P<literal>(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*"|[uUL]?'(?:[^'\\\n]|\\.)*'|\.?[0-9][\w.]*)
    |(?P<name>[A-Za-z_$][\w$]*)
    |(?P<mark>.)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_WORD = re.compile(r"\s*#\s*(\w*)")
_DEFINED = re.compile(r"\s*#\s*(?:define|undef)\s+(\w+)")
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_CONDITIONS = frozenset(("if", "ifdef", "ifndef"))
_ALTERNATIVES = frozenset(("elif", "else", "elifdef", "elifndef"))


class Kind(StrEnum):
    """What a segment is."""

    INCLUDE = "include"
    MACRO = "macro"
    """``#define`` and ``#undef``."""
    CONDITION = "condition"
    """``#if`` and all that belongs to it."""
    DIRECTIVE = "directive"
    FUNCTION = "function"
    """A function with its body, be its head a macro's call (``SYSCALL_DEFINE3(...) {``)."""
    OTHER = "other"
    """Declarations, types, variables, calls of macros."""


@dataclass(slots=True, eq=False)
class Segment:
    """A stretch of a file that is kept or left as one.

    Args:
        kind: what it is.
        start: offset of its first character.
        end: offset behind its last one.
        line: its first line.
        last: its last line.
        comment: offset where the comments directly before it begin; `start` if there are none.
        name: of a function its name as written, of a macro the macro's.
        body: of a function the offset of its opening brace.
        groups: the conditions that it stands in, outermost first; of a condition its own is last.
    """

    kind: Kind
    start: int
    end: int
    line: int
    last: int
    comment: int
    name: str = ""
    body: int = 0
    groups: tuple[int, ...] = ()


@dataclass(slots=True)
class _Branch:
    start: int  # behind its directive
    end: int  # where the next directive of the group begins
    group: int


@dataclass(slots=True)
class _Open:
    """A condition that is not ended yet."""

    group: int
    start: int
    inner: bool  # stands within a segment


@dataclass(slots=True)
class _Pending:
    """A segment under construction."""

    start: int
    comment: int
    words: list[ctokens.Token] = field(default_factory=list)
    depth: int = 0
    body: int = 0
    name: str = ""


def segments(text: str, active: Collection[int]) -> list[Segment]:
    """The segments of a file, in order.

    Args:
        text: its content.
        active: lines (from 1) of which a token comes out of the preprocessor.
    """
    return _Reader(text, active).read()


class Lines:
    """Lines of a text by offset."""

    def __init__(self, text: str) -> None:
        self._ends = [found.end() for found in re.finditer(r"\n", text)]

    def at(self, offset: int) -> int:
        """The line (from 1) of an offset."""
        return bisect_right(self._ends, offset) + 1


class _Reader:
    def __init__(self, text: str, active: Collection[int]) -> None:
        self._text = text
        self._lines = Lines(text)
        self._tokens = [
            (found.lastgroup or "", found.start(), found.end()) for found in _TOKEN.finditer(text)
        ]
        self._active = frozenset(active)
        self._skipped = self._inactive()
        self._found: list[Segment] = []
        self._open: list[_Open] = []
        self._pending: _Pending | None = None
        self._comment: tuple[int, int] | None = None
        self._groups = 0

    def read(self) -> list[Segment]:
        skip_to = 0
        for at, (kind, start, end) in enumerate(self._tokens):
            if kind == "directive":
                self._directive(start, end)
                skip_to = max(skip_to, self._skipped.get(start, 0))
            elif start < skip_to:
                self._comment = None
            elif kind == "comment":
                self._take_comment(start, end)
            elif kind != "space":
                self._take(kind, start, end, at)
        if self._pending is not None:
            self._finish(len(self._text.rstrip()))
        return self._found

    # -- conditions -----------------------------------------------------------------------------

    def _inactive(self) -> dict[int, int]:
        """Where a directive begins a branch that does not hold -> where that branch ends."""
        skipped: dict[int, int] = {}
        stack: list[tuple[int, int]] = []
        for kind, start, end in self._tokens:
            if kind != "directive":
                continue
            word = self._word(start)
            if word in _CONDITIONS:
                stack.append((start, end))
            elif (word in _ALTERNATIVES or word == "endif") and stack:
                first, behind = stack.pop()
                lines = range(self._lines.at(behind) + 1, self._lines.at(start))
                if not any(line in self._active for line in lines):
                    skipped[first] = start
                if word != "endif":
                    stack.append((start, end))
        return skipped

    def _word(self, start: int) -> str:
        found = _WORD.match(self._text, start)
        return found[1] if found is not None else ""

    def _directive(self, start: int, end: int) -> None:
        word = self._word(start)
        if self._pending is not None and self._is_call_alone():
            self._finish(self._end_of_pending(start))
        if word in _CONDITIONS:
            self._groups += 1
            inner = self._pending is not None
            self._open.append(_Open(self._groups, start, inner))
            if not inner:
                self._add_directive(Kind.CONDITION, start, end)
        elif (word in _ALTERNATIVES or word == "endif") and self._open:
            self._go_on(word, start, end)
        elif self._pending is None:
            kind = {"include": Kind.INCLUDE, "define": Kind.MACRO, "undef": Kind.MACRO}.get(
                word, Kind.DIRECTIVE
            )
            self._add_directive(kind, start, end)
        self._comment = None

    def _go_on(self, word: str, start: int, end: int) -> None:
        """The next branch of a condition, or its end."""
        group = self._open[-1]
        if self._pending is not None and not group.inner:
            # The head of a function in a branch, its body behind: all of it is one.
            while self._found and self._found[-1].start >= group.start:
                self._found.pop()
            self._pending.start = min(self._pending.start, group.start)
            self._pending.comment = min(self._pending.comment, group.start)
            group.inner = True
        if not group.inner:
            self._add_directive(Kind.CONDITION, start, end)
        if word == "endif":
            self._open.pop()

    def _add_directive(self, kind: Kind, start: int, end: int) -> None:
        found = _DEFINED.match(self._text, start)
        comment = self._comment_before(start) if kind is Kind.MACRO else start
        self._add(kind, start, end, comment, found[1] if found is not None else "")

    # -- everything else ------------------------------------------------------------------------

    def _take_comment(self, start: int, end: int) -> None:
        if self._pending is not None:
            return
        line = self._lines.at(start)
        if self._found and self._found[-1].last == line:
            self._found[-1].end = end  # behind a declaration, on its line
            self._found[-1].last = self._lines.at(end - 1)
            return
        if self._comment is not None and self._lines.at(self._comment[1] - 1) + 1 >= line:
            self._comment = (self._comment[0], end)
        else:
            self._comment = (start, end)

    def _comment_before(self, start: int) -> int:
        """Where the comments begin that stand directly before a place."""
        if self._comment is None:
            return start
        is_near = self._lines.at(self._comment[1] - 1) + 1 >= self._lines.at(start)
        return self._comment[0] if is_near else start

    def _take(self, kind: str, start: int, end: int, at: int) -> None:
        word = self._text[start:end]
        pending = self._pending
        at_margin = kind == "name" and self._text[start - 1] == "\n"
        if pending is not None and at_margin and self._is_call_alone():
            self._finish(self._end_of_pending(start))  # BUFFER_FNS(Dirty, dirty), no semicolon
            pending = None
        if pending is None:
            if word == ";":
                return
            pending = self._pending = _Pending(start, self._comment_before(start))
            self._comment = None
        if kind == "mark" and word in _OPEN:
            if word == "{" and pending.depth == 0 and not pending.body:
                name = function_name(pending.words)
                if name is not None:
                    pending.body, pending.name = start, name
            pending.depth += 1
        elif kind == "mark" and word in _CLOSE:
            pending.depth -= 1
        if not pending.body:
            pending.words.append(ctokens.Token(_KINDS[kind], word))
        is_end = word == ";" or (word == "}" and pending.body)
        if kind == "mark" and is_end and pending.depth <= 0:
            self._finish(end)

    def _is_call_alone(self) -> bool:
        """Whether what is pending is the call of a macro and nothing else: ``module_init(f)``."""
        pending = self._pending
        if pending is None or pending.depth or pending.body or len(pending.words) < 3:
            return False
        first, second, last = pending.words[0], pending.words[1], pending.words[-1]
        if first.kind is not ctokens.Kind.NAME or second.text != "(" or last.text != ")":
            return False
        depth = 0
        for number, token in enumerate(pending.words[1:], 1):
            depth += (token.text in _OPEN) - (token.text in _CLOSE)
            if depth == 0:
                return number == len(pending.words) - 1
        return False

    def _end_of_pending(self, limit: int) -> int:
        """Where the last token of the pending segment ends, before a place."""
        assert self._pending is not None
        ends = [
            end
            for kind, start, end in self._tokens
            if self._pending.start <= start < limit and kind not in ("space", "comment")
        ]
        return max(ends)

    def _finish(self, end: int) -> None:
        pending = self._pending
        assert pending is not None
        self._pending = None
        kind = Kind.FUNCTION if pending.body else Kind.OTHER
        self._add(kind, pending.start, end, pending.comment, pending.name, pending.body)

    def _add(
        self, kind: Kind, start: int, end: int, comment: int, name: str = "", body: int = 0
    ) -> None:
        line, last = self._lines.at(start), self._lines.at(end - 1)
        groups = tuple(each.group for each in self._open if not each.inner)
        before = self._found[-1] if self._found else None
        if before is not None and before.kind is kind is Kind.OTHER and before.last == line:
            before.end, before.last = end, last  # two on a line are one
            return
        self._found.append(Segment(kind, start, end, line, last, comment, name, body, groups))


_KINDS = {str(kind): kind for kind in ctokens.Kind}


def identifiers(text: str) -> Iterator[str]:
    """The names in a stretch of text, comments and literals left out."""
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "name":
            yield found[0]
        elif found.lastgroup == "directive":
            yield from re.findall(r"[A-Za-z_$][\w$]*", found[0])
