# SPDX-License-Identifier: GPL-2.0-or-later
"""The two sources that a survey is between, and what differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from livegraft.cache import Cache
from livegraft.fix.between import between, file_diff, wanted
from livegraft.progress import SILENT, Progress
from livegraft.survey.candidate import Candidate

HEADERS = (".h", ".inc", ".def")
CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Trees:
    """Two source trees.

    Args:
        old: the tree before.
        new: the tree after.
        changed: the files that differ, sorted.
    """

    old: Path
    new: Path
    changed: tuple[str, ...]

    @classmethod
    def compare(
        cls,
        old: Path,
        new: Path,
        cache: Cache,
        patterns: Iterable[str] = (),
        progress: Progress = SILENT,
    ) -> Trees:
        """Find out what differs (:func:`livegraft.fix.between.between`).

        Source trees in the cache do not change: so what differs between two of them is kept there.
        """

        def find(path: Path) -> None:
            path.write_text(json.dumps(between(old, new, (), progress).files))

        path = cache.file(f"differences/{old.name}..{new.name}.json", find, progress)
        some = tuple(patterns)
        changed = (name for name in json.loads(path.read_text()) if wanted(name, some))
        return cls(old, new, tuple(changed))

    def before(self, path: str) -> str | None:
        """The old text, None if the file is new. Latin-1 takes every byte as it is."""
        return _text(self.old / path)

    def after(self, path: str) -> str | None:
        """The new text, None if the file is deleted."""
        return _text(self.new / path)

    def content(self, files: Iterable[str]) -> dict[str, bytes | None]:
        """The new content of files, as :class:`livegraft.kbuild.shadow.Shadow` takes it."""
        found = ((path, self.after(path)) for path in files)
        return {path: None if text is None else text.encode("latin-1") for path, text in found}

    def texts(self, files: Iterable[str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Old and new texts of files; what a side lacks is left out there."""
        names = list(files)
        sides = [{path: read(path) for path in names} for read in (self.before, self.after)]
        old, new = ({path: text for path, text in s.items() if text is not None} for s in sides)
        return old, new

    def fix(self, candidate: Candidate) -> bytes:
        """The fix as a unified diff."""
        return b"".join(file_diff(self.old, self.new, path) or b"" for path in candidate.files)


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("latin-1")
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(maxsize=1)
def names_in_headers(trees: Trees) -> Mapping[str, frozenset[str]]:
    """The identifiers of the changed lines of headers, by header."""
    return {
        path: frozenset(_NAME.findall("\n".join(old ^ new)))
        for path, old, new in _differing(trees, HEADERS)
    }


@lru_cache(maxsize=1)
def likely_functions(trees: Trees) -> Mapping[str, frozenset[str]]:
    """What the new lines of ``.c`` files may define, by file: names in front of a parenthesis, in
    lines that are not indented."""
    return {
        path: frozenset(
            name for line in new - old if line[:1].strip() for name in CALLED.findall(line)
        )
        for path, old, new in _differing(trees, (".c",))
    }


def _differing(
    trees: Trees, suffixes: tuple[str, ...]
) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Changed files with the lines of both sides."""
    for path in trees.changed:
        if path.endswith(suffixes):
            sides = (trees.before(path), trees.after(path))
            old, new = (frozenset((text or "").split("\n")) for text in sides)
            yield path, old, new
