# SPDX-License-Identifier: GPL-2.0-or-later
"""The difference between two source trees, as a fix: ``diff -ruN a b``, without dates."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from livegraft.progress import SILENT, Progress

CONTEXT = 3
"""Lines of context, as diff(1) gives by default."""

CHUNK = 1 << 20
"""Bytes that are compared at once."""

SLOW = 4_000_000
"""Pairs of lines to compare from which on exactness costs seconds."""

_WILDCARDS = "*?["


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two trees.

    Args:
        diff: the unified diff; empty if nothing differs.
        files: the files in it, relative to the tree, sorted.
        left_out: what a unified diff cannot hold: binary files, symbolic links, new empty files.
    """

    diff: bytes
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def between(
    old: Path, new: Path, patterns: Sequence[str] = (), progress: Progress = SILENT
) -> Difference:
    """Compare two trees.

    Args:
        old: the tree before.
        new: the tree after.
        patterns: shell patterns of paths (``fs/ext4/*.c``; ``*`` matches slashes too); a folder
            stands for all that is in it. None at all stands for everything.
        progress: gets the step ``compare``.
    """
    pieces = []
    files = []
    left_out = []
    with progress.step("compare the sources") as step:
        for name in _differing(old, new, "", _Patterns(patterns)):
            step.say(name)
            before, after = _read(old / name), _read(new / name)
            if before is None or after is None or not (before or after):
                left_out.append(name)
            else:
                files.append(name)
                pieces.append(_unified(name, before, after))
    return Difference(b"".join(pieces), tuple(files), tuple(left_out))


def file_diff(old: Path, new: Path, name: str) -> bytes | None:
    """The unified diff of one file of two trees; None if a unified diff cannot hold it."""
    before, after = _read(old / name), _read(new / name)
    return None if before is None or after is None else _unified(name, before, after)


def wanted(name: str, patterns: Sequence[str]) -> bool:
    """Whether a path is among those that patterns stand for, as :func:`between` takes them."""
    return _Patterns(patterns).match(name)


class _Patterns:
    """Which paths are wanted.

    Args:
        patterns: as :func:`between` takes them.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
        self._literal = [_until_wildcard(pattern) for pattern in self._patterns]

    def match(self, name: str) -> bool:
        """Whether a file is wanted."""
        return not self._patterns or any(
            fnmatchcase(name, pattern) or name.startswith(f"{pattern}/")
            for pattern in self._patterns
        )

    def may_be_below(self, folder: str) -> bool:
        """Whether a folder can hold a file that is wanted: most are not even looked into."""
        inside = f"{folder}/"
        return not self._patterns or any(
            inside.startswith(start) or f"{start}/".startswith(inside) for start in self._literal
        )


def _until_wildcard(pattern: str) -> str:
    return pattern[: next((i for i, char in enumerate(pattern) if char in _WILDCARDS), None)]


def _differing(old: Path, new: Path, folder: str, wanted: _Patterns) -> Iterator[str]:
    """The files below `folder` that differ, in the order of their whole paths within a folder."""
    before, after = _entries(old / folder), _entries(new / folder)
    for name in sorted(before.keys() | after.keys()):
        path = f"{folder}/{name}" if folder else name
        one, other = before.get(name), after.get(name)
        is_folder = [entry is not None and stat.S_ISDIR(entry.st_mode) for entry in (one, other)]
        if any(is_folder) and wanted.may_be_below(path):
            yield from _differing(old, new, path, wanted)
        if all(is_folder) or not wanted.match(path):
            continue
        # A folder on one side only is no file there.
        sides = [
            entry if not folder_there else None
            for entry, folder_there in zip((one, other), is_folder, strict=True)
        ]
        if any(sides) and not _same(old / path, new / path, *sides):
            yield path


def _entries(folder: Path) -> dict[str, os.stat_result]:
    try:
        with os.scandir(folder) as found:
            return {entry.name: entry.stat(follow_symlinks=False) for entry in found}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _same(
    old: Path, new: Path, before: os.stat_result | None, after: os.stat_result | None
) -> bool:
    if before is None or after is None or stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
        return False
    if stat.S_ISLNK(before.st_mode):
        return old.readlink() == new.readlink()
    if before.st_size != after.st_size:
        return False
    with old.open("rb", buffering=0) as one, new.open("rb", buffering=0) as other:
        while True:
            piece = one.read(CHUNK)
            if piece != other.read(CHUNK):
                return False
            if not piece:
                return True


def _read(path: Path) -> list[str] | None:
    """A file's lines, none if there is no such file; ``None`` if it has no lines to speak of.

    Latin-1 gives each byte a character and back: some files of the kernel are not UTF-8.
    """
    if path.is_symlink():
        return None
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return []
    if b"\0" in data:
        return None
    lines = data.decode("latin-1").split("\n")
    last = lines.pop()
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _unified(name: str, before: list[str], after: list[str]) -> bytes:
    lines = [
        f"diff -ruN a/{name} b/{name}\n",
        f"--- a/{name}\n" if before else "--- /dev/null\n",
        f"+++ b/{name}\n" if after else "+++ /dev/null\n",
    ]
    for group in _Matcher(before, after).get_grouped_opcodes(CONTEXT):
        first, last = group[0], group[-1]
        lines.append(f"@@ -{_place(first[1], last[2])} +{_place(first[3], last[4])} @@\n")
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                lines += _marked(" ", before[i1:i2])
                continue
            lines += _marked("-", before[i1:i2])
            lines += _marked("+", after[j1:j2])
    return "".join(lines).encode("latin-1")


_Opcode = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]


class _Matcher(difflib.SequenceMatcher[str]):
    """Compares what lies between the lines that two files have in common at their ends.

    Those stand around it as they are: matched anew, some of the last ones could be taken for a part
    of the change, and patch(1) takes a hunk with less context behind than in front for one at the
    end of the file.
    """

    def __init__(self, before: list[str], after: list[str]) -> None:
        self._start, end = _common(before, after)
        self._before, self._after = len(before), len(after)
        old, new = before[self._start : len(before) - end], after[self._start : len(after) - end]
        # The heuristic that ignores frequent lines makes needlessly large hunks, but keeps a file
        # that was rewritten as a whole from taking minutes.
        super().__init__(None, old, new, autojunk=len(old) * len(new) > SLOW)
        self._end = end

    def get_opcodes(self) -> list[_Opcode]:
        """As for the whole files."""
        start, before, after = self._start, self._before, self._after
        found: list[_Opcode] = [("equal", 0, start, 0, start)] if start else []
        for tag, i1, i2, j1, j2 in super().get_opcodes():
            found.append((tag, i1 + start, i2 + start, j1 + start, j2 + start))
        if self._end:
            found.append(("equal", before - self._end, before, after - self._end, after))
        return found


def _place(start: int, end: int) -> str:
    """A hunk's range, 1-based; an empty one names the line before it (diff's manual)."""
    if end - start == 1:
        return str(start + 1)
    return f"{start + (end > start)},{end - start}"


def _common(before: list[str], after: list[str]) -> tuple[int, int]:
    """Lines at the start and at the end that need not be compared again."""
    most = min(len(before), len(after))
    start = 0
    while start < most and before[start] == after[start]:
        start += 1
    end = 0
    while end < most - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return start, end


def _marked(mark: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield (
            f"{mark}{line}"
            if line.endswith("\n")
            else (f"{mark}{line}\n\\ No newline at end of file\n")
        )
