# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of proc and sysfs as text. Anybody may name a task as he likes: bytes are not text yet."""

from __future__ import annotations

from pathlib import Path


def read(path: Path) -> str:
    """A file's text without the blanks around it.

    What is not UTF-8 (a task's name is cut at 15 bytes, in mid-character too) and what a terminal
    would obey comes escaped; tabs and newlines stay.

    Raises:
        OSError: it cannot be read.
    """
    text = path.read_bytes().decode("utf-8", "backslashreplace").strip()
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(each if each in "\t\n" else printable(each) for each in text)


def printable(text: str) -> str:
    """A text in one line that changes nothing on a terminal."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
