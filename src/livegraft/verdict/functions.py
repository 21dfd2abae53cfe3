# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for functions that changed or are new."""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity
from livegraft.compare.tracing import is_traced
from livegraft.compare.unit import Unit
from livegraft.elf.header import SectionFlag
from livegraft.elf.object import Binding, SymbolType
from livegraft.errors import Reason

REBOOT = "leave this function out of the fix, or boot a kernel with the fix"


def init_code(comparison: Comparison) -> Iterator[Reason]:
    """Code of the boot or of a module's loading has run: ``ext4_init_mballoc()`` is ``__init``."""
    for function in (*comparison.changed_entities, *comparison.new_entities):
        section = comparison.patched.section(function).name
        if sections.is_initial(section):
            is_exit = section.startswith(".exit")
            text = "runs when the module is unloaded only" if is_exit else "has run already"
            yield Reason("init-code", function.name, f"{text} ({section})", REBOOT)


def no_ftrace_entry(comparison: Comparison) -> Iterator[Reason]:
    """Calls are redirected by ftrace: ``fixup_bug()`` of traps.c is ``__always_inline notrace``."""
    for function in comparison.changed_entities:
        original = comparison.original_of(function)
        if original is None or _is_initial(comparison, function):
            continue
        if not is_traced(comparison.original, original):
            text = "has no ftrace entry (notrace, noinstr, or made without -pg)"
            remedy = "change its callers or what it calls instead, or boot a kernel with the fix"
            yield Reason("no-ftrace-entry", original.name, text, remedy)


def _is_initial(comparison: Comparison, function: Entity) -> bool:
    return sections.is_initial(comparison.patched.section(function).name)


def alias_changed(comparison: Comparison) -> Iterator[Reason]:
    """A global name that means another function than before, or is one more of a changed one.

    ``SYSCALL_DEFINE`` makes ``__x64_sys_*`` so. Callers elsewhere have the old function by that
    name. Those of a static function are all here, and were compared with what they mean.
    """
    before, after = (_global_names(unit) for unit in (comparison.original, comparison.patched))
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if comparison.original_of(new) is not old:
            text = f"was a name of {old.name} and would be one of {new.name}"
            yield Reason("alias-changed", name, text, "keep the name where it is")
    added: dict[Entity, list[str]] = {}
    for name in sorted(after.keys() - before.keys()):
        original = comparison.original_of(after[name])
        if original is not None and name not in _names(comparison.original, original):
            added.setdefault(after[name], []).append(name)
    for function in comparison.changed_entities:
        original = comparison.original_of(function)
        if original is not None and function in added:
            text = f"has other aliases than before ({', '.join(added[function])})"
            yield Reason("alias-changed", original.name, text, "keep the function's aliases")


def _names(unit: Unit, function: Entity) -> set[str]:
    return {unit.obj.symbols[number].name for number in (function.symbol, *function.aliases)}


def _global_names(unit: Unit) -> dict[str, Entity]:
    """The names by which other units call functions."""
    names: dict[str, Entity] = {}
    for function in unit.functions():
        for number in (function.symbol, *function.aliases):
            symbol = unit.obj.symbols[number]
            if symbol.binding != Binding.LOCAL:
                names[symbol.name] = function
    return names


def ifunc(comparison: Comparison) -> Iterator[Reason]:
    """An indirect function is resolved once, at boot."""
    for function in (*comparison.changed_entities, *comparison.new_entities):
        if comparison.patched.obj.symbols[function.symbol].type == SymbolType.GNU_IFUNC:
            yield Reason("ifunc", function.name, "is an indirect function (ifunc)", REBOOT)


def section_group(comparison: Comparison) -> Iterator[Reason]:
    """COMDAT: the linker kept one of several copies, perhaps another unit's."""
    for entity in comparison.inclusion.in_order():
        section = comparison.patched.section(entity)
        if section.flags & SectionFlag.GROUP:
            text = f"lies in a section group ({section.name})"
            yield Reason("section-group", entity.name or section.name, text, REBOOT)
