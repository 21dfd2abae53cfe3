# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes for the tests: edits of a kernel's source become a unified diff."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from livegraft.kernel.kernel import Kernel

Edit = tuple[str, str]
"""A text, which is there once, and what takes its place."""

Edits = Mapping[str, Edit | list[Edit] | str]
"""File -> one edit, several, or a text for the file's end."""


def write_fix(kernel: Kernel, edits: Edits, folder: Path) -> Path:
    """Make the diff of some edits.

    Args:
        folder: where it is written to, as ``fix.patch``.
    """
    pieces: list[str] = []
    for path, edit in edits.items():
        before = (kernel.source / path).read_text("utf-8")
        after = _edited(before, edit, path)
        old, new = (text.splitlines(keepends=True) for text in (before, after))
        pieces += difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
    fix = folder / "fix.patch"
    fix.write_text("".join(pieces), "utf-8")
    return fix


def _edited(text: str, edit: Edit | list[Edit] | str, path: str) -> str:
    if isinstance(edit, str):
        return text + edit
    edits = [edit] if isinstance(edit, tuple) else edit
    for old, new in edits:
        assert text.count(old) == 1, f"{path} has {old!r} not once"
        text = text.replace(old, new)
    return text
