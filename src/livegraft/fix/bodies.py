# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix changes outside of function bodies, from the source texts alone.

Most fixes change function bodies and nothing else: then no type can differ, and nobody has to look
for one. The scanner knows as much C as that takes: comments, literals, directives, and braces. What
it does not understand it takes for a declaration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TOKEN = re.compile(
    r"""
    (?P<skip> /\*.*?\*/ | //[^\n]* | \\\n | \s+ )
  | (?P<directive> \# (?: \\\n | /\*.*?\*/ | [^\n] )* )
  | (?P<literal> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
  | (?P<brace> [{}] )
  | (?P<end> ; )
  | (?P<other> \w+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_CONDITION = re.compile(r"\s*#\s*(?:if|ifdef|ifndef|else|elif|endif)\b")
_BLOCK_TYPE = re.compile(r"\b(?:struct|union|enum) (?:\w+ (?:\([^;{}]*\) )?)*\{")
_NAMED_BY_MACRO = re.compile(
    r"\b(?:struct|union|enum) (?:\w+|(?:\w+ )*__\w*aligned\w*) \([^()]*\)$"
)
"""``struct __aligned(8) {`` and ``struct NAME(x) {`` begin no function."""
_ANNOTATIONS = frozenset({"__acquires", "__releases", "__must_hold"})
"""What may stand behind a function's arguments (include/linux/compiler_types.h)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A source file, taken apart.

    Args:
        outside: what stands outside of function bodies, comments and white space aside.
        bodies: function bodies in the order of the file, each after what stands before it.
    """

    outside: str
    bodies: tuple[tuple[str, str], ...]

    @property
    def functions(self) -> Mapping[str, str]:
        """Bodies by the functions' names; of two with one name both."""
        found: dict[str, str] = {}
        for head, body in self.bodies:
            name = name_of(head)
            found[name] = found.get(name, "") + body
        return found


def take_apart(text: str) -> Text:
    """Divide C source into function bodies and all else."""
    outside: list[str] = []
    bodies: list[tuple[str, str]] = []
    head: list[str] = []
    body: list[str] = []
    depth = 0
    in_body = False
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup, match.group()
        if kind == "skip":
            continue
        if kind == "directive":
            # What a body defines lasts beyond it; a condition there chooses statements.
            (body if in_body and _CONDITION.match(word) else outside).append(word)
            continue
        if word == "{" and not depth and _is_function(head):
            in_body, body = True, []
        depth += (word == "{") - (word == "}")
        (body if in_body else outside).append(word)
        if depth < 0:
            return Text(text, ())
        if not depth and word in "};":
            if in_body:
                bodies.append((" ".join(head), " ".join(body)))
            in_body, head = False, []
        elif not in_body:
            head.append(word)
    if depth:
        return Text(text, ())  # braces in branches of a condition
    return Text(" ".join(outside), tuple(bodies))


def name_of(head: str) -> str:
    """The name of a function from what stands before its body; ``DEFINE(x)`` counts as one."""
    words = _without_attributes(head.split())
    depth = 0
    for at in range(len(words) - 1, 0, -1):
        depth += (words[at] == ")") - (words[at] == "(")
        if not depth and words[at - 1] not in _ANNOTATIONS and words[at] == "(":
            return words[at - 1]
    return ""


def _is_function(head: list[str]) -> bool:
    words = _without_attributes(head)
    if not words or words[-1] != ")" or "=" in words:
        return False
    return not _NAMED_BY_MACRO.search(" ".join(words))


def _without_attributes(words: list[str]) -> list[str]:
    kept: list[str] = []
    depth = 0
    for at, word in enumerate(words):
        if depth or (word == "(" and at and words[at - 1] == "__attribute__"):
            depth += (word == "(") - (word == ")")
        elif word != "__attribute__":
            kept.append(word)
    return kept


def changes_declarations(changes: Mapping[str, bytes | None], source: Path) -> bool:
    """Whether a fix changes anything but the bodies of functions.

    A body in which a structure is defined counts as a declaration.

    Args:
        changes: changed files relative to the source tree; None for a deleted one.
        source: the source tree.
    """
    return any(_differ(source / path, content) for path, content in changes.items())


def _differ(file: Path, content: bytes | None) -> bool:
    if content is None or not file.is_file():
        return True
    before, after = (take_apart(_text(each)) for each in (file.read_bytes(), content))
    if before.outside != after.outside:
        return True
    pairs = zip(before.bodies, after.bodies, strict=True)
    return any(old != new and _BLOCK_TYPE.search(f"{old[1]} {new[1]}") for old, new in pairs)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
