# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the objects of a unit, and ask the compiler whether lines alone have moved.

Where a line number stands in code cannot always be told from the code: the compiler may store it
together with another number. So a function that differs in constants alone is compiled once more,
before and after the fix, with the same number for each ``__LINE__``. If it is the same then, lines
were all: a constant that the fix changes would still differ.
"""

from __future__ import annotations

from livegraft.compare.comparison import Comparison, compare_objects, differing_in_constants
from livegraft.elf import object as elf
from livegraft.errors import CompileError
from livegraft.fix.compiled import Compiled
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree


def compare_compiled(kernel: KernelTree, each: Compiled, shadow: Shadow) -> Comparison:
    """Compare a unit before and after a fix.

    Args:
        each: the unit, compiled.
        shadow: the source with the fix.

    Returns:
        The comparison, not judged.
    """
    before, after = elf.read(each.before.path), elf.read(each.after)
    found = compare_objects(before, after)
    moved = _moved(kernel, each, shadow, differing_in_constants(found))
    return compare_objects(before, after, moved=moved) if moved else found


def _moved(
    kernel: KernelTree, each: Compiled, shadow: Shadow, asked: frozenset[str]
) -> frozenset[str]:
    """Those of the functions that are the same without line numbers."""
    if not asked:
        return frozenset()
    output = each.after.with_suffix(".unlined.o")
    flags = Variant.UNLINED.flags
    try:
        before = compile_original(kernel, each.command, Variant.UNLINED)
        after = compile_unit(kernel, each.command, output=output, shadow=shadow, extra_flags=flags)
    except CompileError:  # names are made of lines there
        return frozenset()
    found = compare_objects(elf.read(before.path), elf.read(after.path))
    changed = {entity.name for entity in (*found.changed_entities, *found.new_entities)}
    paired = {entity.name for entity in found.pairs.of_patched}
    return asked & paired - changed
