# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the archives that a Linux kernel unpacks as its first file system.

Format: "newc" as in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. The
kernel takes several archives one after the other; what a later one holds replaces what is there.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

_ALIGNMENT = 4


class CpioWriter:
    """Appends entries to an open file. Close it with :meth:`finish`, which writes the trailer.

    Args:
        stream: where the archive goes; it begins at a multiple of 4 bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inode = 0
        self._folders: set[str] = {""}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A directory (and those above it, if they are not in this archive yet)."""
        name = path.strip("/")
        if name in self._folders:
            return
        self.folder(name.rpartition("/")[0])
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self.folder(path.strip("/").rpartition("/")[0])
        self._entry(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(path.strip("/").rpartition("/")[0])
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device node; the archive is made without root, the kernel makes the node."""
        self.folder(path.strip("/").rpartition("/")[0])
        self._entry(path, stat.S_IFCHR | mode, b"", (major, minor))

    def copy(self, path: str, source: Path) -> None:
        """The file or link `source`, with its permissions.

        Raises:
            ValueError: `source` is neither.
        """
        mode = source.lstat().st_mode
        if stat.S_ISLNK(mode):
            self.link(path, str(source.readlink()))
        elif stat.S_ISREG(mode):
            self.file(path, source.read_bytes(), stat.S_IMODE(mode))
        else:
            raise ValueError(f"{source} is neither a file nor a link")

    def finish(self) -> None:
        """Write the trailer, padded so that another archive may follow."""
        self._entry("TRAILER!!!", 0, b"")

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        name = path.strip("/").encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino mode uid gid nlink mtime filesize major minor rmajor rminor namesize check
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._stream.write(_padded(header + name) + _padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
