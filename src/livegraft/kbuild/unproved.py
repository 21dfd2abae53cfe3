# SPDX-License-Identifier: GPL-2.0-or-later
"""Which symbol is which, without the proof: by names that are there once, and by nothing else."""

from __future__ import annotations

from livegraft.elf.object import Binding, ElfObject
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.placing import telling
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.shipped import open_shipped
from livegraft.progress import SILENT, Progress


def place_unproved(
    kernel: Kernel,
    unit_path: str,
    object_name: str,
    plain: ElfObject,
    progress: Progress = SILENT,
) -> Placement:
    """Place the symbols of a unit whose names are unique in the object (``--no-proof``).

    Args:
        kernel: the kernel.
        unit_path: the translation unit.
        object_name: ``vmlinux``, or the module that it is linked into.
        plain: the unpatched unit.
        progress: told of the steps.

    Returns:
        a placement without the symbols that several units define: what needs one of those is
        refused.
    """
    symbols = open_shipped(kernel, object_name, progress).symbols
    places = {}
    for symbol in plain.symbols:
        # A weak symbol's name may mean another unit's definition.
        usable = telling(symbol) and symbol.binding != Binding.WEAK
        found = symbols.places(symbol.name) if usable else ()
        if len(found) == 1:
            places[symbol.name] = found[0]
    return Placement(unit_path, symbols, places)
