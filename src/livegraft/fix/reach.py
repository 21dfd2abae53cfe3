# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what a fix changes in a header reaches the code of a unit.

An inline function that a unit never mentions leaves nothing in its object, and neither does a
macro, a declaration or a type. A header of a thousand units changes five of them most often;
preprocessing tells which, in a fifth of the time that compiling takes.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from livegraft.fix.bodies import changes_declarations, text_of
from livegraft.fix.ctokens import Token
from livegraft.fix.items import Item, chunks_of, items_of
from livegraft.fix.outline import Function, outline, take_apart
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import SAME_LINES, preprocess
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree

_MARKER = re.compile(r'^# \d+ "((?:[^"\\]|\\.)*)".*\n', re.MULTILINE)

MANY_NAMES = 300
"""Of so many names a unit that reads the header mentions one: nobody looks further."""


class Reach:
    """Tells of the units of a fix whether it can change their objects.

    Args:
        kernel: the kernel.
        shadow: the source with the fix.
    """

    def __init__(self, kernel: KernelTree, shadow: Shadow) -> None:
        self.only_bodies = not changes_declarations(shadow.changes, kernel.source)
        self._kernel = kernel
        self._shadow = shadow
        self._names = _changed_in(kernel.source, shadow.changes) if self.only_bodies else None
        self._before = {str(kernel.source / path) for path in shadow.changes}
        self._after = {str(shadow.root / path) for path in shadow.changes}

    def reaches(self, command: Command) -> bool:
        """Whether a unit's object can depend on what the fix changes.

        Raises:
            CompileError: the unit cannot be preprocessed.
        """
        if self._names is not None:
            text = preprocess(self._kernel, command, self._shadow)
            return reaches(text, self._after, self._names)
        # A moved line number is no change (livegraft.compare.moved).
        before = preprocess(self._kernel, command, None, *SAME_LINES)
        after = preprocess(self._kernel, command, self._shadow, *SAME_LINES)
        return differ(_by_file(before, self._before), _by_file(after, self._after))


def changed_bodies(before: str, after: str) -> frozenset[str]:
    """The names of functions whose bodies differ, new ones included."""
    old, new = (_bodies(outline(text).functions) for text in (before, after))
    return frozenset(name for name, bodies in new.items() if old.get(name) != bodies)


def _bodies(functions: Iterable[Function]) -> Mapping[str, list[tuple[Token, ...]]]:
    """Bodies by the functions' names; a condition may choose between several of one name."""
    found = defaultdict[str, list[tuple[Token, ...]]](list)
    for function in functions:
        found[function.name].append(function.body)
    return found


def _changed_in(source: Path, changes: Mapping[str, bytes | None]) -> frozenset[str]:
    names: set[str] = set()
    for path, content in changes.items():
        before = (source / path).read_bytes()
        names |= changed_bodies(text_of(before), text_of(content or b""))
    return frozenset(names)


def reaches(text: str, files: Collection[str], names: Collection[str]) -> bool:
    """Whether the functions `names`, defined in `files`, leave anything in a unit's object.

    Args:
        text: the preprocessed unit with its line markers.
        files: the changed files, as the markers name them.
    """
    if not names:
        return False  # lines moved
    parts = _by_file(text, files)
    defined = {
        each.item.name
        for chunk in chunks_of(parts.inside)
        if any(name in chunk for name in names)
        for each in _found(chunk)
    }
    if not set(names) <= defined:
        return True  # made by a macro, or left out by a condition: nothing is known
    return _mentions(parts, names)


class Parts(NamedTuple):
    """A preprocessed unit.

    Args:
        inside: what comes from the changed files.
        rest: all else.
    """

    inside: str
    rest: str


class _Found(NamedTuple):
    """Something at the top level of a file, with the names that it introduces and its words."""

    item: Item
    introduces: frozenset[str] | None
    words: frozenset[str]


def differ(before: Parts, after: Parts) -> bool:
    """Whether a unit's object can depend on a difference of its preprocessed texts.

    It cannot if nothing but what the changed files hold is different, and the unit mentions none of
    the names that the differing parts introduce.
    """
    if before.rest != after.rest:
        return True  # a macro means something else
    old, new = _told_apart(chunks_of(before.inside), chunks_of(after.inside))
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if _without(old, gone) != _without(new, come):
        return True  # an order that may matter
    names: set[str] = set()
    for each in chain(gone, come):
        introduced = each.introduces() if isinstance(each, Item) else None
        if introduced is None:
            return True
        names |= introduced
    return any(_mentions(parts, names) for parts in (before, after))


def _told_apart(
    before: Sequence[str], after: Sequence[str]
) -> tuple[list[str | Item], list[str | Item]]:
    """The parts of two texts; those that only one has are taken apart, for white space is none."""
    common = Counter(before) & Counter(after)
    sides: list[list[str | Item]] = []
    for chunks in (before, after):
        left = Counter(common)
        side: list[str | Item] = []
        for chunk in chunks:
            if left[chunk]:
                left[chunk] -= 1
                side.append(chunk)
            else:
                side += [each.item for each in _found(chunk)]
        sides.append(side)
    return sides[0], sides[1]


def _without(items: Iterable[str | Item], left_out: Counter[str | Item]) -> list[str | Item]:
    left = Counter(left_out)
    kept = []
    for item in items:
        if left[item]:
            left[item] -= 1
        else:
            kept.append(item)
    return kept


@lru_cache(maxsize=8192)
def _found(chunk: str) -> tuple[_Found, ...]:
    """What a part of a text consists of. Most units see the same of a header."""
    return tuple(
        _Found(item, item.introduces(), item.words()) for item in items_of(take_apart(chunk))
    )


def _spread(inside: str, names: Collection[str]) -> set[str] | None:
    """Names, and those of all in a text that depends on them; None if code is left in any case."""
    chunks = chunks_of(inside)
    mentioned = set(names)
    while len(mentioned) < MANY_NAMES:
        size = len(mentioned)
        for chunk in chunks:
            if not any(name in chunk for name in mentioned):
                continue
            for each in _found(chunk):
                if each.introduces is None:
                    if mentioned & each.words:
                        return None
                elif mentioned & each.words:
                    mentioned |= each.introduces
        if len(mentioned) == size:
            return mentioned
    return None


def _mentions(parts: Parts, names: Collection[str]) -> bool:
    """Whether a unit mentions names that its changed files introduce."""
    mentioned = _spread(parts.inside, names)
    if mentioned is None:
        return True
    if not any(name in parts.rest for name in mentioned):
        return False
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(mentioned)))})\b")
    return found.search(parts.rest) is not None


def _by_file(text: str, files: Collection[str]) -> Parts:
    """The parts of a preprocessed text that come from `files`, and all others."""
    inside: list[str] = []
    rest: list[str] = []
    known: dict[str, bool] = {}
    at = 0
    into = rest
    for match in _MARKER.finditer(text):
        into.append(text[at : match.start()])
        name = match[1]
        if name not in known:
            known[name] = os.path.normpath(name) in files
        into = inside if known[name] else rest
        at = match.end()
    into.append(text[at:])
    return Parts("".join(inside), "".join(rest))
