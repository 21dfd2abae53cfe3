# SPDX-License-Identifier: GPL-2.0-or-later
"""Unified diffs, read exactly: bytes in, hunks of byte lines out.

unidiff does the parsing. Text is passed through it as latin-1, one character per byte, so any
encoding and any line end survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from livegraft.errors import FixError

DEV_NULL = "/dev/null"
_SYMLINK_OR_SUBMODULE = re.compile(r"^(?:[a-z ]*mode|index \S+) (?:120000|160000)$", re.MULTILINE)
"""In the lines before the names of the files."""

_BINARY = re.compile(r"^GIT binary patch\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Hunk:
    """One change.

    Args:
        number: 1-based position in its file's part of the diff.
        start: 1-based line at which the old lines are expected; for a hunk without old lines the
            line after which the new ones go.
        old: the lines to find (context and removed), with their line ends.
        new: the lines to put in their place.
        header: the ``@@`` line.
    """

    number: int
    start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    header: str


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a diff does to one file.

    Args:
        old: its path before, as the diff spells it; None for ``/dev/null``.
        new: its path afterwards; None for ``/dev/null``.
        hunks: its changes.
        moved: git says that it is renamed.
        copied: git says that it is copied.
    """

    old: str | None
    new: str | None
    hunks: tuple[Hunk, ...]
    moved: bool = False
    copied: bool = False

    @property
    def name(self) -> str:
        """The path to speak of."""
        return self.new or self.old or DEV_NULL

    @property
    def creates(self) -> bool:
        """A new file; ``diff -ruN`` names both sides of one and begins its one hunk at line 0."""
        only = self.hunks[0] if len(self.hunks) == 1 else None
        return self.old is None or (only is not None and not only.old and only.start == 0)

    @property
    def empties(self) -> bool:
        """A file of which no line is left, which ``diff -ruN`` does not tell from a deleted one."""
        return self.new is None or (len(self.hunks) == 1 and not self.hunks[0].new)


def parse_diff(data: bytes, subject: str) -> tuple[FileDiff, ...]:
    """Read a unified diff as git or ``diff -ruN`` make it.

    Args:
        data: the diff.
        subject: what to call it in errors.

    Raises:
        FixError: it is empty, damaged, or changes something that is not text.
    """
    if not data.strip():
        raise FixError(subject, "is empty", "give a unified diff ('git diff', 'diff -ruN')")
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    # A diff cut off at its last line end still means a whole last line.
    text = (data if data.endswith(b"\n") else data + b"\n").decode("latin-1")
    try:
        parsed = PatchSet(text)
    except UnidiffParseError as error:
        raise FixError(
            subject, f"is damaged: {str(error).strip()}", "export the diff anew and do not edit it"
        ) from error
    _check_complete(parsed, text.split("\n"), subject)
    files = tuple(_file(patched, subject) for patched in parsed)
    if _BINARY.search(text):  # unidiff 0.7.3 leaves such a file out
        raise FixError(subject, "holds a binary change", "leave it out of the fix")
    if not any(file.hunks or file.moved or None in (file.old, file.new) for file in files):
        raise FixError(
            subject,
            "holds no change to a file's text",
            "give a unified diff with hunks ('diff -u')",
        )
    return files


def _check_complete(parsed: Iterable[Any], lines: Sequence[str], subject: str) -> None:
    """A hunk with more lines than its header says would be applied in part: refuse it."""
    for patched in parsed:
        for hunk in patched:
            ends = [line.diff_line_no for line in hunk if line.diff_line_no]
            at = ends[-1] if ends else 0
            following = lines[at] if at < len(lines) else ""
            # "-- " begins the signature of git format-patch, "--- " the next file.
            if (
                following[:1] in ("+", "-")
                and following.rstrip("\r") not in ("-- ", "--")
                and (not following.startswith("--- "))
            ):
                raise FixError(
                    f"{subject}:{at + 1}",
                    "a hunk has more lines than its header says",
                    "export the diff anew and do not edit it",
                )


def _file(patched: Any, subject: str) -> FileDiff:
    old, new = _name(patched.source_file, subject), _name(patched.target_file, subject)
    name = new or old or DEV_NULL
    if patched.is_binary_file:
        raise FixError(f"{subject}: {name}", "is a binary change", "leave it out of the fix")
    said = "".join(patched.patch_info or ())
    if _SYMLINK_OR_SUBMODULE.search(said):
        raise FixError(
            f"{subject}: {name}", "is a symbolic link or a submodule", "leave it out of the fix"
        )
    hunks = tuple(_hunk(number, hunk) for number, hunk in enumerate(patched, 1))
    return FileDiff(old, new, hunks, "\nrename from " in said, "\ncopy from " in said)


def _name(spelled: str, subject: str) -> str | None:
    name = spelled.rstrip("\r")
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        raise FixError(
            subject, f"names a file with unusual characters: {name}", "leave it out of the fix"
        )
    return None if name == DEV_NULL else name.encode("latin-1").decode(errors="surrogateescape")


def _hunk(number: int, hunk: Any) -> Hunk:
    old: list[bytes] = []
    new: list[bytes] = []
    last: tuple[list[bytes], ...] = ()
    for line in hunk:
        if line.line_type == "\\":
            # "\ No newline at end of file" speaks of the line before it.
            for side in last:
                side[-1] = side[-1].removesuffix(b"\n")
            continue
        if line.line_type not in (" ", "+", "-"):
            continue  # an empty line after the last hunk
        last = {" ": (old, new), "-": (old,), "+": (new,)}[line.line_type]
        for side in last:
            side.append(line.value.encode("latin-1"))
    header = (
        f"@@ -{hunk.source_start},{hunk.source_length} "
        f"+{hunk.target_start},{hunk.target_length} @@ {hunk.section_header}"
    )
    return Hunk(number, hunk.source_start, tuple(old), tuple(new), header.rstrip())
