# SPDX-License-Identifier: GPL-2.0-or-later
"""Colours and tables, with the standard library only: runtime verbs use them too."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

NARROWEST = 24
"""Columns that a table's last cell gets at least, on however narrow a terminal."""


class Paint:
    """Marks text for a terminal, or leaves it as it is.

    Args:
        colour: whether to use ECMA-48 sequences.
    """

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def bold(self, text: str) -> str:
        """Headings."""
        return self._with("1", text)

    def good(self, text: str) -> str:
        """What went well: green."""
        return self._with("32", text)

    def warning(self, text: str) -> str:
        """What wants attention: yellow."""
        return self._with("33", text)

    def bad(self, text: str) -> str:
        """What went wrong: red."""
        return self._with("31", text)

    def _with(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour and text else text


def wants_colour(stream: TextIO, refused: bool) -> bool:
    """Whether to colour what goes to `stream`.

    Args:
        stream: where the text goes.
        refused: the user said ``--no-colour``.

    Source: https://no-color.org (``NO_COLOR``, any value but the empty one, means no).
    """
    if refused or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint) -> str:
    """Rows in columns; the last column is wrapped to the terminal's width.

    Args:
        header: the columns' titles.
        rows: cells as plain text; a last cell may hold several lines.
        paint: colours the header.
    """
    widths = [
        max(len(title), *(len(row[column]) for row in rows)) if rows else len(title)
        for column, title in enumerate(header[:-1])
    ]
    indent = sum(widths) + 2 * len(widths)
    room = max(_columns() - indent, NARROWEST)
    lines = [paint.bold(_line(widths, header[:-1], header[-1]))]
    for row in rows:
        last = [part for line in row[-1].splitlines() for part in _wrap(line, room)] or [""]
        lines.append(_line(widths, row[:-1], last[0]))
        lines += [" " * indent + line for line in last[1:]]
    return "\n".join(line.rstrip() for line in lines)


def fields(pairs: Sequence[tuple[str, str]], paint: Paint) -> str:
    """Names and values, one pair a line, values aligned."""
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{paint.bold(name.ljust(width))}  {value}".rstrip() for name, value in pairs)


def size(count: float) -> str:
    """A number of bytes for a person: ``12.3 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def terminal_columns() -> int:
    """The terminal's width, as ``shutil.get_terminal_size()`` finds it.

    That module imports three compressors, 3 ms of each start.
    """
    with suppress(ValueError):
        told = int(os.environ.get("COLUMNS", ""))
        if told > 0:
            return told
    if sys.__stdout__ is not None:
        with suppress(ValueError, OSError):  # it is closed, or no terminal
            return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80
    return 80


def _line(widths: Sequence[int], cells: Sequence[str], last: str) -> str:
    aligned = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([*aligned, last])


def _wrap(line: str, room: int) -> list[str]:
    import textwrap

    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]


def _columns() -> int:
    # A pipe has no width: what is written to one must not change with the terminal behind it.
    if not sys.stdout.isatty():
        return 200
    return terminal_columns()
