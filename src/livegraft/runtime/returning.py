# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that are unloaded and loaded again while a patch of them stays: not every kernel can it.

A module's livepatch relocations are applied when it comes. What they wrote has to be taken out when
it goes, or the relocation code refuses to write there a second time ("Skipping invalid relocation
target"). ``clear_relocate_add`` does that (commit "livepatch: Clear relocation targets on a module
removal"); 6.1 lacks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

NEEDED = "clear_relocate_add"
"""The kernel function without which a module cannot return."""

RELOCATIONS = ".klp.rela."
"""How the names of livepatch relocation sections begin: ``.klp.rela.OBJECT.SECTION``, see
Documentation/livepatch/module-elf-format.rst."""

NO_MODULES = frozenset({"vmlinux", "livegraft"})
"""Stand in these names for the kernel itself, whether it applies them or the payload does."""


def relocated_modules(sections: Iterable[str]) -> tuple[str, ...]:
    """The modules whose coming livepatch relocations wait for, by the sections' names."""
    names = {
        name.removeprefix(RELOCATIONS).partition(".")[0]
        for name in sections
        if name.startswith(RELOCATIONS)
    }
    return tuple(sorted(names - NO_MODULES))


def can_return(root: Path = Path("/")) -> bool:
    """Whether the running kernel takes a module again; False if that cannot be told."""
    try:
        with (root / "proc/kallsyms").open("rb") as symbols:
            return f" {NEEDED}\n".encode() in symbols.read()
    except OSError:
        return False  # it is no more than a caution


def cautions(modules: Iterable[str]) -> tuple[str, ...]:
    """What to tell for a kernel that cannot, a text for each of :func:`relocated_modules`."""
    return tuple(
        f"while this patch is loaded, module {name} can be unloaded but not loaded again on this "
        f"kernel: unload the patch first, and load it again afterwards"
        for name in modules
    )
