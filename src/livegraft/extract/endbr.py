# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the extracted file's functions begin with ENDBR64 as those of the whole unit do.

With ``-fcf-protection=branch`` GCC puts ENDBR64 at the start of a function that others may call, or
whose address is taken. The extracted file takes the address of all that it replaces, to say so
(``LIVEGRAFT_PATCHES()``), and nobody calls through that. Where the whole unit has none, the file
is compiled once more with ``-mmanual-endbr``, which leaves the choice to the attribute ``cf_check``
(GCC manual, "x86 Options" and "x86 Function Attributes").

No pointer leads to such a function, in an edited file neither: one to what is replaced means the
running kernel's (:meth:`~livegraft.compare.inclusion.Inclusion.means_original`), and callbacks are
left as they are. The finished module is looked at in any case (:mod:`livegraft.module.ibt`).
"""

from __future__ import annotations

from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity
from livegraft.compare.unit import Unit
from livegraft.elf.arch.x86_64 import ENDBR64

FLAG = "-mmanual-endbr"
"""The compiler option: ENDBR64 at functions with the attribute ``cf_check`` alone."""


def only_called(of_unit: Comparison, extracted: Comparison) -> frozenset[str]:
    """The functions that are replaced and begin with ENDBR64 because of their marks alone.

    Args:
        of_unit: of the original and the patched object.
        extracted: of the original with what was cut out and compiled.
    """
    plain = {each.name for each in of_unit.patched.functions()} - marked(of_unit.patched)
    callbacks = {each for _, each in extracted.marks.callbacks}
    return frozenset(
        each.name
        for each in extracted.changed_entities
        if each.name in plain and _is_marked(extracted.patched, each) and each not in callbacks
    )


def marked(unit: Unit) -> frozenset[str]:
    """The functions that begin with ENDBR64."""
    return frozenset(each.name for each in unit.functions() if _is_marked(unit, each))


def suffix(unit: Unit, called: frozenset[str]) -> str:
    """Declarations for the end of a C file, to be compiled with :data:`FLAG`.

    Args:
        unit: the file as it was compiled without.
        called: the functions that are to begin without ENDBR64; all others stay as they were.
    """
    lines = ['\n#pragma GCC diagnostic ignored "-Wattributes"']
    for name in sorted(marked(unit) - called):
        lines += [
            f"#undef {name}",
            f"extern __typeof__({name}) {name} __attribute__((__cf_check__));",
        ]
    return "\n".join([*lines, ""])


def _is_marked(unit: Unit, function: Entity) -> bool:
    return unit.masked(function).startswith(ENDBR64)
