# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a fix changes function bodies and nothing else, told from the source texts alone.

Most fixes do: then no type can differ, and nobody has to look for one. A doubt counts as more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from itertools import chain
from pathlib import Path

from livegraft.fix.ctokens import Kind, Token
from livegraft.fix.outline import Outline, outline

_BLOCK_TYPE = re.compile(r"\b(?:struct|union|enum) (?:\w+ (?:\([^;{}]*\) )?)*\{|\btypedef\b")
_TYPE_OF = frozenset(("typeof", "__typeof", "__typeof__", "__auto_type", "typeof_unqual"))
"""What makes a declaration depend on others of the body."""

_STATIC_MACRO = re.compile(r"define\s*(\w+).*\bstatic\b", re.DOTALL)


def body_only(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether files differ in function bodies and in nothing else, and in at least one.

    Args:
        before: text by path; a file that is missing there is new.
        after: the same with the fix; a file that is missing there is deleted.
    """
    if before.keys() != after.keys():
        return False
    changed = False
    for path, text in before.items():
        old, new = outline(text), outline(after[path])
        if old.skeleton != new.skeleton:
            return False
        changed = changed or old.functions != new.functions
    return changed


def changes_declarations(changes: Mapping[str, bytes | None], source: Path) -> bool:
    """Whether a fix changes anything but the bodies of functions.

    A body counts as a declaration if it defines a type, or declares its static variables otherwise
    than before.

    Args:
        changes: changed files relative to the source tree; None for a deleted one.
        source: the source tree.
    """
    return any(_differ(source / path, content) for path, content in changes.items())


def text_of(content: bytes) -> str:
    """A source file's text; Latin-1 takes every byte as it is."""
    return content.decode("latin-1")


def _differ(file: Path, content: bytes | None) -> bool:
    if content is None or not file.is_file():
        return True
    before, after = (outline(text_of(each)) for each in (file.read_bytes(), content))
    if before.skeleton != after.skeleton:
        return True
    if not (_is_balanced(before) and _is_balanced(after)):
        return before != after
    hidden = _static_macros(before) | _static_macros(after)
    return any(
        old.body != new.body and _declare_otherwise(old.body, new.body, hidden)
        for old, new in zip(before.functions, after.functions, strict=True)
    )


def _declare_otherwise(old: Sequence[Token], new: Sequence[Token], hidden: Set[str]) -> bool:
    """Whether two bodies may differ in a type that outlives a call.

    Args:
        hidden: macros that may declare a static variable.
    """
    if _defines_type(old) or _defines_type(new):
        return True
    before, after = _statics(old), _statics(new)
    return (
        before != after
        or any(not _TYPE_OF.isdisjoint(each) for each in before)
        or not hidden.isdisjoint(token.text for token in (*old, *new))
    )


def _statics(body: Sequence[Token]) -> list[list[str]]:
    """The declarations of static variables, and all conditions if there are any."""
    found: list[list[str]] = []
    conditions: list[list[str]] = []
    statement: list[str] = []
    for token in body:
        if token.kind is Kind.DIRECTIVE:
            conditions.append([token.text])
        elif token.kind is Kind.MARK and token.text in "{;}" and "static" not in statement:
            statement = []
        elif token.kind is Kind.MARK and token.text == ";":
            found.append(statement)
            statement = []
        else:
            statement.append(token.text)
    return [*found, *conditions] if found else []


def _static_macros(text: Outline) -> set[str]:
    """Macros of a file that mention ``static``."""
    return {
        found[1]
        for token in text.skeleton
        if token.kind is Kind.DIRECTIVE and (found := _STATIC_MACRO.match(token.text))
    }


def _is_balanced(text: Outline) -> bool:
    """Whether each brace has its own: branches of a condition may share the one that closes."""
    bodies = chain.from_iterable(function.body for function in text.functions)
    words = [token.text for token in chain(text.skeleton, bodies)]
    return words.count("{") == words.count("}")


def _defines_type(body: Sequence[Token]) -> bool:
    return _BLOCK_TYPE.search(" ".join(token.text for token in body)) is not None
