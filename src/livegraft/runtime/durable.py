# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of folders that a loss of power leaves whole: done, or not begun.

What is written is on disk (fsync) before it gets the name under which it is looked for, and the
name before the function returns. Everything goes by descriptors of folders, and follows no links.
"""

from __future__ import annotations

import os
import stat

FOLDER_MODE = 0o755
FILE_MODE = 0o644

_EXCHANGE = 2
"""``RENAME_EXCHANGE``, include/uapi/linux/fs.h."""


def make_folder(above: int, name: str) -> None:
    """A folder, if there is none of this name; what has the name otherwise stays as it is."""
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return
    os.chmod(name, FOLDER_MODE, dir_fd=above)  # whatever the umask is
    os.fsync(above)


def write_new(folder: int, name: str, data: bytes) -> None:
    """A file that was not there before; its name may be lost until the folder is written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)


def write(folder: int, name: str, data: bytes) -> None:
    """A file, in place of one that has the name."""
    beside = f".{name}"
    remove(folder, beside)
    write_new(folder, beside, data)
    os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def put(source: int, name: str, target: int, new_name: str) -> bool:
    """Give a folder, whose files are written, its place; what was there comes to the old one.

    Args:
        source: the folder that it is in.
        name: its name there.
        target: the folder where it belongs.
        new_name: its name there.

    Returns:
        Whether there was something.
    """
    try:
        os.stat(new_name, dir_fd=target, follow_symlinks=False)
        exchanged = True
        _exchange(source, name, target, new_name)
    except FileNotFoundError:
        exchanged = False
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
    os.fsync(target)
    os.fsync(source)
    return exchanged


def remove(folder: int, name: str) -> None:
    """Whatever has this name, and what is below it."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        import shutil  # seldom needed, and start-up time counts

        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


def _exchange(source: int, name: str, target: int, new_name: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(source, os.fsencode(name), target, os.fsencode(new_name), _EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new_name)
