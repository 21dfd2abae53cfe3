# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what was cut out of a file still reads as it did there.

Which macros a function needs is told by its text; a macro may need others that no text mentions, or
be defined differently in two places. So the preprocessor is asked once more: each definition that
was taken has to come out of the cut file word by word as it comes out of the unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.segments import Kind, Segment

_COUNTED = re.compile(r"\b(__(?:UNIQUE_ID|compiletime_assert)_\w*?)\d+\b")
"""A name that a macro made with ``__COUNTER__`` (linux/compiler.h, compiler_types.h); also within
the text that another macro makes of its argument, as ``min()`` does of ``READ_ONCE()``. No other
number may differ: ``__u32`` and ``__u64`` are two types."""

_END = "\n"


def differences(
    unit: Preprocessed, cut: Preprocessed, taken: Iterable[Segment]
) -> Iterator[Segment]:
    """Those of the segments that were taken which read differently in the cut file.

    Args:
        unit: the unit, preprocessed.
        cut: the cut file, preprocessed.
        taken: in the order of the cut file.
    """
    wanted = [each for each in taken if each.kind in (Kind.FUNCTION, Kind.OTHER)]
    lines = _by_line(unit)
    stream = "".join(f"{_plain(word)}{_END}" for _, word in cut.words())
    at = 0
    for segment in wanted:
        words = [
            word for line in range(segment.line, segment.last + 1) for word in lines.get(line, ())
        ]
        text = "".join(f"{word}{_END}" for word in words)
        found = _find(stream, text, at)
        if found < 0:
            yield segment
        else:
            at = found + len(text)


def _find(stream: str, text: str, at: int) -> int:
    """Where whole words of a stream are these, from a place on; -1 if nowhere."""
    while True:
        found = stream.find(text, at)
        if found <= 0 or stream[found - 1] == _END:
            return found
        at = found + 1


def _by_line(unit: Preprocessed) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line, word in unit.words():
        found.setdefault(line, []).append(_plain(word))
    return found


def _plain(word: str) -> str:
    return _COUNTED.sub(r"\1", word)
