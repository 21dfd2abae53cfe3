# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the changed function bodies of a header reach the code of a unit.

An inline function that a unit never mentions leaves nothing in its object. A header of fifty units
changes five of them most often; preprocessing tells which, in a fifth of the time that compiling
takes.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.fix.bodies import text_of
from livegraft.fix.ctokens import Token
from livegraft.fix.outline import Function, outline
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import preprocess
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree

_MARKER = re.compile(r'^# \d+ "((?:[^"\\]|\\.)*)".*\n', re.MULTILINE)
_WORD = re.compile(r"\w+")


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


def is_reached(kernel: KernelTree, command: Command, shadow: Shadow) -> bool:
    """Whether a unit's object can depend on what a fix changes.

    Args:
        shadow: the source with the fix, which changes nothing but function bodies.

    Raises:
        CompileError: the unit cannot be preprocessed.
    """
    names = _changed_in(kernel.source, shadow.changes)
    text = preprocess(kernel, command, shadow)
    files = {str(shadow.root / path) for path in shadow.changes}
    return reaches(text, files, names)


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
    inside, rest = _by_file(text, files)
    apart = outline(inside)
    users = [_User.of(function) for function in apart.functions]
    mentioned = set(names)
    if not mentioned <= {user.name for user in users}:
        return True  # made by a macro, or left out by a condition: nothing is known
    while True:
        reached = {user.name for user in users if mentioned & user.words} | mentioned
        if reached == mentioned:
            break
        mentioned = reached
    if any(user.name in mentioned and not user.vanishes for user in users):
        return True
    # What defines a function mentions it once; more is a use, or a declaration, which is rare.
    heads = [word for user in users for word in user.head]
    outside = _words(apart.skeleton)
    if any(outside.count(name) > heads.count(name) for name in mentioned):
        return True
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(mentioned)))})\b")
    return any(name in rest for name in mentioned) and bool(found.search(rest))


@dataclass(frozen=True, slots=True)
class _User:
    """A function of the changed files."""

    name: str
    head: Sequence[str]
    words: frozenset[str]

    @classmethod
    def of(cls, function: Function) -> _User:
        return cls(function.name, _words(function.head), frozenset(_words(function.body)))

    @property
    def vanishes(self) -> bool:
        """Whether nothing is left of it where nobody calls it."""
        words = {*self.head}
        return {"static", "inline"} <= words and words.isdisjoint(("__used__", "used"))


def _words(found: Iterable[Token]) -> list[str]:
    return _WORD.findall(" ".join(token.text for token in found))


def _by_file(text: str, files: Collection[str]) -> tuple[str, str]:
    """The parts of a preprocessed text that come from `files`, and all others."""
    inside: list[str] = []
    rest: list[str] = []
    at = 0
    into = rest
    for match in _MARKER.finditer(text):
        into.append(text[at : match.start()])
        into = inside if os.path.normpath(match[1]) in files else rest
        at = match.end()
    into.append(text[at:])
    return "".join(inside), "".join(rest)
