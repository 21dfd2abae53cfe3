# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a fix changes function bodies and nothing else, told from the source texts alone.

Most fixes do: then no type can differ, and nobody has to look for one. A doubt counts as more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from livegraft.fix.ctokens import Token
from livegraft.fix.outline import Outline, outline

_BLOCK_TYPE = re.compile(r"\b(?:struct|union|enum) (?:\w+ (?:\([^;{}]*\) )?)*\{")


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

    A body in which a structure is defined counts as a declaration.

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
    pairs = zip(before.functions, after.functions, strict=True)
    return any(
        old.body != new.body and (_defines_type(old.body) or _defines_type(new.body))
        for old, new in pairs
    )


def _is_balanced(text: Outline) -> bool:
    """Whether each brace has its own: branches of a condition may share the one that closes."""
    bodies = chain.from_iterable(function.body for function in text.functions)
    words = [token.text for token in chain(text.skeleton, bodies)]
    return words.count("{") == words.count("}")


def _defines_type(body: Sequence[Token]) -> bool:
    return _BLOCK_TYPE.search(" ".join(token.text for token in body)) is not None
