# SPDX-License-Identifier: GPL-2.0-or-later
"""What other programs say when the disk is full."""

from __future__ import annotations

import re

from livegraft.errors import CacheError

_FULL = re.compile(
    r"No space left on device|Disk quota exceeded"
    # tar, when a part of a block still fits.
    r"|Wrote only \d+ of \d+ bytes"
    # fixdep of the kernel's build system.
    r"|not all data was written to the output"
)


def full_disk(subject: str, output: str) -> CacheError | None:
    """The error for a full disk, if that is what a failed program speaks of.

    Args:
        subject: what it was working on.
        output: what it printed.
    """
    if _FULL.search(output) is None:
        return None
    return CacheError(
        subject,
        "the disk is full",
        "free some space, or set XDG_CACHE_HOME (the cache) or TMPDIR elsewhere",
    )
