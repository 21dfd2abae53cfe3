# SPDX-License-Identifier: GPL-2.0-or-later
"""A preprocessed unit: which stretch of it comes from which line of the unit's own file.

The text is the compiler's own (``gcc -E``), with line markers (``# 123 "file" flags``); so it is
what the distribution compiles, whatever another parser thinks of the same conditions.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)".*$', re.MULTILINE)
_WORD = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|\w+|[^\w\s]')


class Preprocessed:
    """The output of the preprocessor.

    Args:
        text: all of it.
        files: the names of the unit's own file, as it was given to the compiler and as ``#line``
            names it.
    """

    def __init__(self, text: str, *files: str) -> None:
        self.text = text
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._stretches: list[_Stretch] = []
        for marker in _MARKER.finditer(text):
            if self._stretches:
                self._stretches[-1].end = marker.start()
            name = marker[2].replace('\\"', '"').replace("\\\\", "\\")
            line = int(marker[1]) if name in files else 0
            start = marker.end() + 1
            self._stretches.append(_Stretch(start, len(text), line, self._count(start)))
        self._starts = [each.start for each in self._stretches]

    def line(self, offset: int) -> int:
        """The line of the unit's own file that a place comes from; 0 if it is another file's."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0 or not self._stretches[number].line:
            return 0
        stretch = self._stretches[number]
        return stretch.line + self._count(offset) - stretch.before

    def included(self) -> Iterator[tuple[int, str]]:
        """What comes of each file that the unit's own file includes, and the line that does it."""
        text: list[str] = []
        for stretch in self._stretches:
            if not stretch.line:
                text.append(self.text[stretch.start : stretch.end])
            elif text:
                yield stretch.line - 1, "\n".join(text)
                text = []

    def words(self) -> Iterator[tuple[int, str]]:
        """The tokens of the unit's own file with their lines."""
        for stretch in self._stretches:
            if stretch.line:
                text = self.text[stretch.start : stretch.end]
                for line, row in enumerate(text.split("\n"), stretch.line):
                    for word in _WORD.findall(row):
                        yield line, word

    def _count(self, offset: int) -> int:
        return bisect_left(self._newlines, offset)


@dataclass(slots=True)
class _Stretch:
    """Text between two markers.

    Args:
        start: offset of its first character.
        end: offset behind its last one.
        line: the line of the unit's own file that it begins with; 0 for other files.
        before: line ends in front of it.
    """

    start: int
    end: int
    line: int
    before: int
