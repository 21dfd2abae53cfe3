# SPDX-License-Identifier: GPL-2.0-or-later
"""One loader at a time: what was checked has to be true still when the kernel is asked."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from livegraft.errors import PatchError

PLACE = Path("/run/livegraft.lock")
"""The kernel gives it back when its holder ends, however that happens."""

PAUSE = 0.02
"""Seconds between two tries."""


@contextmanager
def alone(
    name: str, seconds: float, place: Path = PLACE, doing: str = "is loading a patch"
) -> Iterator[None]:
    """Be the only one who does something as long as the block lasts.

    Args:
        name: the patch, for errors.
        seconds: for how long to wait for another one.
        place: the lock's file.
        doing: what the other one does, for errors.

    Raises:
        PatchError: another one does not come to an end, or there is no place for the lock.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(place, flags, 0o600)
    except OSError as error:
        raise PatchError(str(place), f"cannot be opened: {error.strerror}", "run as root") from None
    try:
        _lock(descriptor, name, time.monotonic() + seconds, doing)
        # For whoever waits; a full /run keeps nobody out.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, name: str, end: float, doing: str) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                raise PatchError(
                    name,
                    f"another livegraft {doing} (pid {holder or 'unknown'})",
                    "wait until it has ended, and try again",
                ) from None
        time.sleep(PAUSE)
