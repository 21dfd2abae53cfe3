# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a hunk goes: exactly, or nowhere. All context has to match; only the line may be off."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from livegraft.errors import DoesNotApply
from livegraft.fix.diff import Hunk

Lines = Sequence[bytes]


def apply_hunks(path: str, content: bytes, hunks: Sequence[Hunk]) -> bytes:
    """Apply `hunks` to the content of the file `path`.

    Raises:
        DoesNotApply: a hunk finds no place, or two that are equally near.
    """
    lines = _split(content)
    result: list[bytes] = []
    done = 0  # lines of the original that are in the result
    drift = 0  # how far the last hunk was from its line
    for hunk in hunks:
        expected = hunk.start - 1 if hunk.old else hunk.start
        at = _find(path, lines, hunk, expected + drift, done)
        result += lines[done:at]
        result += hunk.new
        done = at + len(hunk.old)
        drift = at - expected
    result += lines[done:]
    return b"".join(result)


def _split(content: bytes) -> list[bytes]:
    # Not splitlines: it also ends a line at a lone \r, a diff does not.
    parts = content.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def _find(path: str, lines: Lines, hunk: Hunk, expected: int, first: int) -> int:
    if not hunk.old:
        if not first <= expected <= len(lines):
            raise _nowhere(path, lines, hunk)
        return expected
    places = _matches(lines, hunk.old, first)
    if not places:
        raise _nowhere(path, lines, hunk)
    nearest = min(abs(place - expected) for place in places)
    best = [place for place in places if abs(place - expected) == nearest]
    if len(best) > 1:
        raise DoesNotApply(
            f"{path}: hunk {hunk.number} ({hunk.header})",
            f"fits equally well at lines {best[0] + 1} and {best[1] + 1}",
            "make the diff against this kernel's source, with more context lines",
        )
    return best[0]


def _matches(lines: Lines, wanted: Sequence[bytes], first: int) -> list[int]:
    """Every place at or after `first` where all of `wanted` stands."""
    found = []
    size = len(wanted)
    for at in range(first, len(lines) - size + 1):
        if lines[at] == wanted[0] and tuple(lines[at : at + size]) == tuple(wanted):
            found.append(at)
    return found


def _nowhere(path: str, lines: Lines, hunk: Hunk) -> DoesNotApply:
    subject = f"{path}: hunk {hunk.number} ({hunk.header})"
    if hunk.new and hunk.new != hunk.old and _matches(lines, hunk.new, 0):
        at = _matches(lines, hunk.new, 0)[0] + 1
        return DoesNotApply(
            subject,
            f"is already applied at {path}:{at}",
            "this kernel has the fix; nothing is to be patched there",
        )
    bare = [line.rstrip(b"\r\n") for line in hunk.old]
    ends = {line[len(line.rstrip(b"\r\n")) :] for line in hunk.old}
    if b"\r\n" in ends and _matches([line.rstrip(b"\r\n") for line in lines], bare, 0):
        return DoesNotApply(
            subject,
            "has DOS line ends (CR LF), the source has not",
            "convert the diff, for example with 'dos2unix'",
        )
    at, same = nearest_place(lines, hunk.old)
    if not same:
        return DoesNotApply(
            subject, "nothing in this file looks like it", "is it a fix for this kernel version?"
        )
    return DoesNotApply(
        subject,
        f"finds no place; nearest is {path}:{at + 1}, where {same} of {len(hunk.old)} lines match",
        "adapt the fix to this kernel's source",
    )


def nearest_place(lines: Lines, wanted: Sequence[bytes]) -> tuple[int, int]:
    """The place that looks most like `wanted`: its 0-based line, and how many lines match there.

    Lines are compared without white space at their ends. Each line that stands in the file speaks
    for the place that it would put the hunk at; difflib then counts around the best ones.
    """
    stripped = [line.strip() for line in lines]
    sought = [line.strip() for line in wanted]
    positions: dict[bytes, list[int]] = {}
    for at, line in enumerate(stripped):
        positions.setdefault(line, []).append(at)
    votes: Counter[int] = Counter()
    for offset, line in enumerate(sought):
        known = positions.get(line, ())
        if line and len(known) < 200:  # braces and the like say nothing
            votes.update(max(0, at - offset) for at in known)
    best, most = 0, 0
    for at, _ in votes.most_common(10):
        window = stripped[at : at + len(sought)]
        matcher = difflib.SequenceMatcher(None, window, sought, autojunk=False)
        same = sum(block.size for block in matcher.get_matching_blocks())
        if same > most:
            best, most = at, same
    return best, most
