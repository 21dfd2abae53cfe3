# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix changes in the source texts: which functions, and which declarations beside them.

The texts alone are looked at, as :mod:`livegraft.fix.outline` takes them apart; a hunk that changes
comments or white space only changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any

from livegraft.fix.ctokens import Kind, Token
from livegraft.fix.outline import BODY, Function, Outline, outline

_WORDS = """
    __attribute__ __inline __inline__ asm auto bool break case char const continue default do
    double else enum extern float for goto if inline int long register return short signed sizeof
    static struct switch typedef typeof union unsigned void volatile while
"""
_KEYWORDS = frozenset(_WORDS.split())


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Lines of a file.

    Args:
        file: relative to the source tree.
        first: the first line, from 1, as the patched file counts. Where lines were removed only,
            the line before them.
        last: the last one.
    """

    file: str
    first: int
    last: int

    def __str__(self) -> str:
        lines = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.file}:{lines}"


@dataclass(frozen=True, slots=True)
class ChangedFunction:
    """A function whose text a fix changes.

    Args:
        name: as the text has it.
        file: where it is.
        places: the changed lines of it.
        before: its lines in the original file; none if it is new.
        after: its lines in the patched file; none if it is gone.
    """

    name: str
    file: str
    places: tuple[Place, ...]
    before: range
    after: range


@dataclass(frozen=True, slots=True)
class Declared:
    """A change beside functions: a macro, a type, a variable, a prototype.

    Args:
        names: the macro's name, or all names in the lines that changed.
        place: where.
    """

    names: frozenset[str]
    place: Place


@dataclass(frozen=True, slots=True)
class SourceChanges:
    """What a fix changes in the texts of files.

    Args:
        functions: functions whose text differs.
        declarations: what differs beside them.
        words: function -> the names in its text, of all functions of the patched files.
    """

    functions: tuple[ChangedFunction, ...] = ()
    declarations: tuple[Declared, ...] = ()
    words: Mapping[str, frozenset[str]] = field(default_factory=dict)


Block = tuple[range, range]
"""Lines that differ, from 1: those of the original and those of the patched text."""


def source_changes(before: Mapping[str, str], after: Mapping[str, str]) -> SourceChanges:
    """Compare the texts of files.

    Args:
        before: path -> text; a file that the fix adds is missing or empty.
        after: the same with the fix; a file that it deletes is missing or empty.
    """
    functions: list[ChangedFunction] = []
    declarations: list[Declared] = []
    words: dict[str, frozenset[str]] = {}
    for file in sorted(before.keys() | after.keys()):
        texts = (before.get(file, ""), after.get(file, ""))
        old, new = (outline(text) for text in texts)
        words |= {each.name: words_of(each) for each in new.functions}
        if texts[0] != texts[1]:
            blocks = list(differing(texts[0].splitlines(), texts[1].splitlines(), shift=1))
            functions += _changed_functions(file, old, new, blocks)
            declarations += _changed_declarations(file, old, new)
    return SourceChanges(tuple(functions), tuple(declarations), words)


def words_of(function: Function) -> frozenset[str]:
    """The names in a function's text."""
    return _names((*function.head, *function.body))


def _names(found: Iterable[Token]) -> frozenset[str]:
    return frozenset(token.text for token in found if token.kind is Kind.NAME) - _KEYWORDS


def differing(old: Sequence[Any], new: Sequence[Any], shift: int) -> Iterator[Block]:
    """Where two sequences differ: the stretches of both, which one of the two may be empty.

    Args:
        shift: the number of the first element.
    """
    pairs = zip(old, new, strict=False)
    head = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    most = min(len(old), len(new)) - head
    ends = zip(reversed(old), reversed(new), strict=False)
    tail = min(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends)), most)
    first, second = old[head : len(old) - tail], new[head : len(new) - tail]
    add = head + shift
    for tag, a, b, c, d in SequenceMatcher(None, first, second).get_opcodes():
        if tag != "equal":
            yield range(a + add, b + add), range(c + add, d + add)


def _numbered(functions: Iterable[Function]) -> dict[tuple[str, int], Function]:
    """The functions of a file by name, the second of a name with another number."""
    counts: Counter[str] = Counter()
    found = {}
    for each in functions:
        found[each.name, counts[each.name]] = each
        counts[each.name] += 1
    return found


def _changed_functions(
    file: str, old: Outline, new: Outline, blocks: Sequence[Block]
) -> Iterator[ChangedFunction]:
    before, after = _numbered(old.functions), _numbered(new.functions)
    for key in dict.fromkeys((*after, *before)):
        first, second = before.get(key), after.get(key)
        if first == second:
            continue
        lines = tuple(each.lines if each else range(0) for each in (first, second))
        places = [
            _place(file, block[1])
            for block in blocks
            if _meet(block[0], lines[0]) or _meet(block[1], lines[1])
        ]
        if places:
            yield ChangedFunction(key[0], file, tuple(places), *lines)


def _meet(first: range, second: range) -> bool:
    return max(first.start, second.start) < min(first.stop, second.stop)


def _place(file: str, lines: range) -> Place:
    if lines:
        return Place(file, lines.start, lines.stop - 1)
    return Place(file, max(lines.start - 1, 1), max(lines.start - 1, 1))


def _changed_declarations(file: str, old: Outline, new: Outline) -> Iterator[Declared]:
    for first, second in differing(old.skeleton, new.skeleton, shift=0):
        found: dict[str, None] = {}
        for text, block in ((old, first), (new, second)):
            for line in sorted({text.lines[at] for at in block}):
                if not any(line in each.lines for each in text.functions):
                    found |= dict.fromkeys(_declared_in(text, line))
        if found:
            lines = [new.lines[at] for at in second]
            if not lines:  # what is gone lay behind this
                lines = [new.lines[second.start - 1] if second.start else 1]
            yield Declared(frozenset(found), Place(file, min(lines), max(lines)))


def _declared_in(text: Outline, line: int) -> Iterator[str]:
    """The names that the tokens of a line speak of."""
    first, end = bisect_left(text.lines, line), bisect_right(text.lines, line)
    for token in text.skeleton[first:end]:
        yield from _declared(token)


def _declared(token: Token) -> Iterable[str]:
    """The names that a token of a skeleton speaks of."""
    if token == BODY:
        return ()
    if token.kind is Kind.DIRECTIVE:
        word, _, rest = token.text.partition(" ")
        if word not in ("define", "undef"):
            return ()
        name = rest.replace("(", " ").split(maxsplit=1)
        return name[:1]
    return _names((token,))
