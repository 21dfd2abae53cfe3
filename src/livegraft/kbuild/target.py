# SPDX-License-Identifier: GPL-2.0-or-later
"""What this room needs to know of a prepared kernel."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

from livegraft.cache import Cache

_FORMAT = "1"
"""Of what is kept in the cache; a change of it makes everything be learnt anew."""


class KernelTree(Protocol):
    """A prepared kernel: :class:`livegraft.kernel.kernel.Kernel`, seen from here.

    ``source`` is the read-only source tree, ``build`` the tree that was prepared from it with
    ``O=``, ``modules`` the folder of the shipped modules (``lib/modules/RELEASE``).
    """

    @property
    def release(self) -> str: ...

    @property
    def source_version(self) -> str: ...

    @property
    def source(self) -> Path: ...

    @property
    def build(self) -> Path: ...

    @property
    def modules(self) -> Path: ...

    @property
    def cache(self) -> Cache: ...

    def derived(self, name: str) -> str:
        """The cache's name of something made from this kernel."""
        ...

    def make_argv(self, *args: str) -> list[str]:
        """The command that runs the kernel's top-level make with `args`."""
        ...


def tree_digest(kernel: KernelTree) -> str:
    """What names this preparation of the kernel: its places, its configuration, its make command.

    Everything learnt from kbuild is kept under it, so a kernel that is prepared anew, or a cache
    that was moved, learns anew.
    """
    digest = hashlib.sha256()
    for part in (_FORMAT, kernel.release, kernel.source_version, *kernel.make_argv()):
        digest.update(os.fsencode(part) + b"\0")
    digest.update(f"{kernel.source}\0{kernel.build}\0".encode())
    digest.update((kernel.build / ".config").read_bytes())
    return digest.hexdigest()[:16]
