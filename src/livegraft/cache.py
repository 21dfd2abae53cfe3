# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache folder: what was made once is never made again, and what is half made is never used.

A *tree* is built in its final place (kernel build trees hold absolute paths) and counts only once
its marker file is there, written and synced last. A *file* is written beside its place and renamed.
A lock per entry lets two runs share the folder: the second waits and finds the work done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from livegraft.errors import CacheError
from livegraft.progress import SILENT, Progress

MARKER = ".livegraft-complete"
FEW = 20
"""Files of a tree that are worth being synced alone; syncing everything may take its time."""


def default_root() -> Path:
    """``$XDG_CACHE_HOME/livegraft``, by default ``~/.cache/livegraft``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "livegraft"


class Cache:
    """A folder of things that can be made again.

    Args:
        root: the folder; made when first written to.

    Raises:
        CacheError: we are root, and somebody else can write to the folder: makefiles and compilers'
            commands are run from it.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        _require_trusted(self.root)

    def tree(self, name: str, build: Callable[[Path], None], progress: Progress = SILENT) -> Path:
        """The folder `name` (relative to the root), built by `build` if it is not complete.

        `build` gets an empty folder at its final place. If it raises, or the machine dies, the
        folder is not complete and is removed by whoever needs it next.

        Raises:
            CacheError: the disk is full or the folder cannot be written.
        """
        path = self.root / name
        if self.has(name):
            return path
        with self.lock(name, progress):
            if self.has(name):
                return path
            with _disk_errors(path):
                _remove(path)
                path.mkdir(parents=True)
                try:
                    build(path)
                except BaseException:
                    _remove(path)
                    raise
                # After a crash of the machine the marker must not be all that is there.
                _sync_tree(path)
                _write_synced(path / MARKER, b"")
                _sync(path)
        return path

    def file(self, name: str, build: Callable[[Path], None], progress: Progress = SILENT) -> Path:
        """The file `name` (relative to the root), written by `build` if it is not there.

        `build` gets the path to write to, which is renamed to its place afterwards.
        """
        path = self.root / name
        if path.is_file():
            return path
        with self.lock(name, progress):
            if path.is_file():
                return path
            with _disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f".{path.name}.partial")
                _remove(partial)
                try:
                    build(partial)
                    _sync(partial)
                    partial.rename(path)
                    _sync(path.parent)
                except BaseException:
                    _remove(partial)
                    raise
        return path

    def has(self, name: str) -> bool:
        """Whether the tree `name` is there and complete."""
        return (self.root / name / MARKER).is_file()

    def forget(self, name: str) -> None:
        """Remove the tree or file `name`."""
        with self.lock(name):
            _remove(self.root / name)

    @contextmanager
    def lock(self, name: str, progress: Progress = SILENT) -> Iterator[None]:
        """Hold the entry `name` against other runs (an advisory lock: it ends with the process)."""
        path = self.root / "locks" / (quote(name, safe="") + ".lock")
        with _disk_errors(path):
            self.root.mkdir(0o755, parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note(f"waiting for another run that makes {name}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _require_trusted(root: Path) -> None:
    try:
        found = root.stat()
    except OSError:
        return  # it is made when it is needed
    if os.geteuid() == 0 and (found.st_uid != 0 or found.st_mode & 0o002):
        raise CacheError(
            str(root),
            "belongs to another user, or all may write to it, and root would run what is in it",
            "set XDG_CACHE_HOME to a folder of root's own (sudo -H does)",
        )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CacheError(
                str(path), "the disk is full", "free some space, or set XDG_CACHE_HOME elsewhere"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CacheError(
                str(path), f"cannot be written ({error.strerror})", "set XDG_CACHE_HOME elsewhere"
            ) from error
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Read-only folders (an unpacked source tree) are opened for writing first.
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o755)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync_tree(path: Path) -> None:
    """Bring a tree to the disk: a few files one by one, more of them all at once."""
    files = list(islice(path.rglob("*"), FEW + 1))
    if len(files) > FEW:
        os.sync()
        return
    for file in files:
        if not file.is_symlink():
            _sync(file)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
