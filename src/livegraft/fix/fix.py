# SPDX-License-Identifier: GPL-2.0-or-later
"""A source fix: one or several unified diffs that belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from livegraft.errors import DoesNotApply, FixError, NothingChanged
from livegraft.fix.diff import FileDiff, parse_diff
from livegraft.fix.place import apply_hunks

_DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Diff:
    """One input file.

    Args:
        name: what to call it.
        files: what it changes.
    """

    name: str
    files: tuple[FileDiff, ...]


@dataclass(frozen=True, slots=True)
class Fix:
    """Diffs that are applied one after the other.

    Args:
        diffs: the inputs in their order.
        sha256: of one input what sha256sum prints; of several the digest of their digests, a line
            each, in their order.
    """

    diffs: tuple[Diff, ...]
    sha256: str

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Fix:
        """Read diffs.

        Raises:
            FixError: a file cannot be read, is empty, damaged or not a text diff.
        """
        digests: list[str] = []
        diffs = []
        for path in paths:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise FixError(
                    str(path), f"cannot be read ({error.strerror})", "name a unified diff"
                ) from error
            digests.append(hashlib.sha256(data).hexdigest())
            diffs.append(Diff(str(path), parse_diff(data, str(path))))
        if not diffs:
            raise FixError("fix", "no diff was given", "name at least one unified diff")
        return cls(tuple(diffs), _sha256(digests))

    def apply(self, source: Path) -> Mapping[str, bytes | None]:
        """What the fix makes of a source tree, which is not touched.

        Args:
            source: the kernel's source tree.

        Returns:
            The changed files: path relative to the tree, new content or None for a deleted file.

        Raises:
            DoesNotApply: a hunk finds no place, a file is missing or there already.
            FixError: no file of a diff is in the tree.
            NothingChanged: the diffs leave everything as it is.
        """
        tree = Overlay(source)
        for diff in self.diffs:
            level = strip_level(diff, tree)
            for file in diff.files:
                _apply(file, level, tree)
        changed = {
            path: content
            for path, content in tree.changes.items()
            if content != _original(source, path)
        }
        if not changed:
            names = ", ".join(diff.name for diff in self.diffs)
            raise NothingChanged(names, "leaves every file as it is", "check the diff")
        return changed


def _sha256(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()


class Overlay:
    """A source tree with the changes made so far."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.changes: dict[str, bytes | None] = {}

    def read(self, path: str) -> bytes | None:
        if path in self.changes:
            return self.changes[path]
        return _original(self.source, path)

    def has_directory(self, path: str) -> bool:
        return (self.source / path).is_dir()


def strip_level(diff: Diff, tree: Overlay) -> int:
    """How many leading folders of the diff's paths to cut: where most of its files exist.

    Raises:
        FixError: at no level does one of them exist.
    """
    scores = []
    for level in range(_DEEPEST):
        names = [name for file in diff.files for name in _candidates(file, level)]
        if not names:
            break
        files = sum(tree.read(name) is not None for name in names)
        folders = sum(tree.has_directory(str(PurePosixPath(name).parent)) for name in names)
        # Folders decide only where a diff does nothing but add files; they are ambiguous, so the
        # files' own names need a folder below the tree's root to count.
        deep = folders if all("/" in name for name in names) else 0
        scores.append((files, deep, -level))
    best = max(scores, default=(0, 0, 0))
    only_new = all(file.creates for file in diff.files)
    if best[0] or (only_new and best[1]):
        return -best[2]
    first = diff.files[0].name
    raise FixError(
        diff.name,
        f"none of its files ({first}, ...) is in this kernel's source",
        "is it a diff against the Linux kernel, of this version?",
    )


def _candidates(file: FileDiff, level: int) -> Iterator[str]:
    for name in {file.old, file.new} - {None}:
        assert name is not None
        if stripped := _strip(name, level):
            yield stripped


def _strip(name: str, level: int) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(parts[level:])


def _apply(file: FileDiff, level: int, tree: Overlay) -> None:
    old = _checked(file.old, level)
    new = _checked(file.new, level)
    if new is not None and file.creates and (old is None or tree.read(old) is None):
        _create(file, new, tree)
        return
    moves = file.moved or file.copied
    if old is None or (new is not None and not moves and tree.read(new) is not None):
        # "diff x.c.orig x.c" names one file in two ways: patch(1) takes the one that exists.
        old = new
    assert old is not None
    content = tree.read(old)
    if content is None:
        raise DoesNotApply(old, "is not in this kernel's source", "is it a fix for this version?")
    changed = apply_hunks(old, content, file.hunks)
    if moves and new is not None:
        if tree.read(new) is not None:
            raise DoesNotApply(new, "is there already", "adapt the fix to this kernel")
        tree.changes[new] = changed
        if file.moved:
            tree.changes[old] = None
    elif file.empties and not changed:
        tree.changes[old] = None
    elif new is None:
        raise DoesNotApply(old, "is to be deleted but has other content", "adapt the fix")
    else:
        tree.changes[old] = changed


def _create(file: FileDiff, path: str, tree: Overlay) -> None:
    content = apply_hunks(path, b"", file.hunks)
    present = tree.read(path)
    if present == content:
        raise DoesNotApply(
            path, "is already applied: the file is there", "this kernel has the fix already"
        )
    if present is not None:
        raise DoesNotApply(path, "is to be created but is there already", "adapt the fix")
    tree.changes[path] = content


def _checked(name: str | None, level: int) -> str | None:
    if name is None:
        return None
    stripped = _strip(name, level)
    if not stripped or ".." in stripped.split("/"):
        raise FixError(name, "lies outside of the source tree", "check the diff's paths")
    return stripped


def _original(source: Path, path: str) -> bytes | None:
    try:
        return (source / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
