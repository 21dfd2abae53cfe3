# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's source as it would be with a fix, without touching it.

A shadow is a folder with real directories along the paths of the changed files, the changed files
themselves, and symbolic links to the source tree for everything else. It costs milliseconds.

Its one trap: gcc opens ``linux/../foo.h`` below a *linked* directory ``linux``, and the kernel
resolves that to the original's parent, past the shadow. The dependency file tells; then that
directory is made real too (:meth:`Shadow.make_real`) and the unit compiled again. That waits until
no other compiler reads the shadow: for a moment a part of it is not there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from livegraft.errors import BuildError
from livegraft.kbuild.dependencies import Dependencies

Changes = Mapping[str, bytes | None]
"""Changed files: path relative to the source tree, new content or None for a deleted file."""


class Shadow:
    """A changed view of a source tree.

    Args:
        source: the source tree, which is only read.
        changes: what differs.
        folder: an empty folder to make the view in.

    Raises:
        BuildError: a path leads out of the tree, or through a file.
    """

    def __init__(self, source: Path, changes: Changes, folder: Path) -> None:
        self.source = source
        self.changes = dict(changes)
        self.root = folder
        self._real: set[str] = set()
        self._turn = threading.Condition()
        self._readers = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.make_real("")
        for path, content in self.changes.items():
            self._change(path, content)

    @contextmanager
    def read(self) -> Iterator[None]:
        """While a compiler runs in it, it stays as it is."""
        with self._turn:
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    def make_real(self, directory: str) -> None:
        """Make `directory` (and those above it) a real one with links to its entries."""
        if self._real.issuperset(lineage := _lineage(directory)):
            return
        with self._turn:
            self._turn.wait_for(lambda: self._readers == 0)
            self._make_real(lineage)

    def _make_real(self, lineage: Iterable[str]) -> None:
        for path in lineage:
            if path in self._real:
                continue
            place, original = self.root / path, self.source / path
            if place.is_symlink():
                place.unlink()
            place.mkdir(exist_ok=True)
            if original.is_dir():
                for entry in os.scandir(original):
                    Path(place, entry.name).symlink_to(entry.path)
            elif original.exists():
                raise BuildError(path, "is a file, but the fix has a file below it", "check it")
            self._real.add(path)

    def translate(self, argument: str) -> str:
        """A compiler argument with the source tree's path replaced by the shadow's."""
        original = str(self.source)
        at = argument.find(original)
        if at < 0:
            return argument
        end = at + len(original)
        if end < len(argument) and argument[end] not in "/=":
            return argument  # another folder whose name begins alike
        return f"{argument[:at]}{self.root}{argument[end:]}"

    def prepare(self, argv: Iterable[str]) -> None:
        """Make the directories real that a ``..`` in a compiler argument leaves."""
        for word in argv:
            at = word.find(f"{self.source}/")
            if at >= 0 and "/../" in word:
                for directory in _left(word[at + len(str(self.source)) + 1 :]):
                    if (self.source / directory).is_dir():
                        self.make_real(directory)

    def escapes(self, dependencies: Dependencies) -> frozenset[str]:
        """The originals of changed files that a compiler run read past the shadow."""
        return dependencies.within(self.source) & frozenset(self.changes)

    def linked_directories(self, dependencies: Dependencies) -> frozenset[str]:
        """Directories that are links and were passed by a ``..`` on the way to an original."""
        found: set[str] = set()
        for name in dependencies.spelled:
            if name.startswith(f"{self.root}/") and self.escapes(Dependencies((name,))):
                found.update(_left(name[len(str(self.root)) + 1 :]))
        return frozenset(found - self._real)

    def _change(self, path: str, content: bytes | None) -> None:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/"):
            raise BuildError(path, "lies outside of the source tree", "check the fix's paths")
        self.make_real(str(PurePosixPath(path).parent))
        place = self.root / path
        place.unlink(missing_ok=True)
        if content is not None:
            place.write_bytes(content)


@contextmanager
def shadow_of(source: Path, changes: Changes) -> Iterator[Shadow]:
    """A shadow in a temporary folder, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="livegraft-shadow-"))
    try:
        yield Shadow(source, changes, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _left(path: str) -> Iterator[str]:
    """The directories of `path` that a ``..`` leaves."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if part == "..":
            yield os.path.normpath("/".join(parts[:at]))


def _lineage(directory: str) -> list[str]:
    """The directory and those above it, topmost (``""``) first."""
    path = PurePosixPath(directory)
    above = ["" if str(parent) == "." else str(parent) for parent in reversed(path.parents)]
    return list(dict.fromkeys([*above, "" if str(path) == "." else str(path)]))
