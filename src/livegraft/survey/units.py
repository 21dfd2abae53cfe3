# SPDX-License-Identifier: GPL-2.0-or-later
"""All translation units of a kernel, to take a sample from."""

from __future__ import annotations

import os
from collections.abc import Iterator

from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.objects import units_among
from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT, Progress

_NOT_KERNEL = frozenset(("Documentation", "LICENSES", "samples", "scripts", "tools", "usr"))


def all_units(kernel: Kernel, progress: Progress = SILENT) -> list[str]:
    """The ``.c`` files that the configuration builds, sorted.

    Raises:
        BuildError: kbuild failed.
    """
    found = units_among(kernel, _sources(kernel), progress)
    return sorted(found)


def _sources(kernel: Kernel) -> Iterator[str]:
    architecture = environment_of(kernel)["SRCARCH"]
    for folder, folders, names in os.walk(kernel.source):
        here = os.path.relpath(folder, kernel.source)
        if here == ".":
            folders[:] = sorted(set(folders) - _NOT_KERNEL)
            continue
        if here == "arch":
            folders[:] = [architecture]
        yield from (f"{here}/{name}" for name in names if name.endswith(".c"))
