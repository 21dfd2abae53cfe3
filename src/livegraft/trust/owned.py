# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that say whom to trust: nobody else may have written them.

What is opened is looked at through its descriptor, so that nothing is exchanged in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from livegraft.errors import Untrusted

LARGEST = 1 << 20
"""Bytes of a file that is read: a certificate has two thousand, a long list of revoked ones less
than this."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""With an access control list, the group's bits are the most that anyone has by it (acl(5))."""


@contextmanager
def folder(path: Path) -> Iterator[int | None]:
    """A folder's descriptor, None if it does not exist.

    Raises:
        Untrusted: it, or the folder that it is in, is not only its owner's to change.
    """
    above = _open(path.parent, os.O_DIRECTORY, None)
    if above is None:
        yield None
        return
    try:
        # Nobody can exchange what is another's in a sticky folder, such as /tmp.
        _require_owned(above, str(path.parent), sticky=True)
        with inside(path, above) as descriptor:
            yield descriptor
    finally:
        os.close(above)


@contextmanager
def inside(path: Path, above: int) -> Iterator[int | None]:
    """The descriptor of a folder in a folder that was looked at, None if it does not exist.

    Args:
        path: the folder.
        above: the descriptor of the one that it is in.

    Raises:
        Untrusted: it is not only its owner's to change, or no folder.
    """
    descriptor = _open(path, os.O_DIRECTORY, above)
    if descriptor is None:
        yield None
        return
    try:
        _require_owned(descriptor, str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def names(descriptor: int) -> list[str]:
    """What is in a folder, sorted."""
    with os.scandir(descriptor) as entries:
        return sorted(each.name for each in entries)


def read(path: Path, above: int, largest: int = LARGEST) -> bytes | None:
    """A file's contents, None if it does not exist.

    Args:
        path: the file.
        above: the descriptor of its folder.
        largest: bytes that it may have.

    Raises:
        Untrusted: it is not only its owner's to change, no regular file, or cannot be read.
    """
    descriptor = _open(path, os.O_NONBLOCK, above)
    if descriptor is None:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Untrusted(str(path), "is not a regular file", "remove it")
    with os.fdopen(descriptor, "rb") as file:
        _require_owned(file.fileno(), str(path))
        try:
            data = file.read(largest + 1)
        except OSError as error:
            raise Untrusted(str(path), f"cannot be read: {error.strerror}", "repair it") from error
    if len(data) > largest:
        raise Untrusted(str(path), f"is longer than {largest} bytes", "remove it")
    return data


def _open(path: Path, flags: int, above: int | None) -> int | None:
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path if above is None else path.name, flags, dir_fd=above)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():
            problem = "is a symbolic link, which may lead to what others can write"
            raise Untrusted(str(path), problem, "put the thing itself in its place") from error
        remedy = "run as root" if error.errno == errno.EACCES else "repair it"
        raise Untrusted(str(path), f"cannot be opened: {error.strerror}", remedy) from error


def _require_owned(descriptor: int, name: str, *, sticky: bool = False) -> None:
    """Only root, and for a user's own files that user, can have written what is believed."""
    found = os.fstat(descriptor)
    if found.st_uid not in (0, os.geteuid()):
        raise Untrusted(
            name, f"belongs to user {found.st_uid}, who could change it", f"chown root:root {name}"
        )
    if found.st_mode & _OTHERS_WRITE and not (sticky and found.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(found.st_mode)
        raise Untrusted(name, f"can be written by others (mode {mode:04o})", f"chmod go-w {name}")
