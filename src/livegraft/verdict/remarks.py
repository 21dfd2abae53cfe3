# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user should know of a fix although it is no reason to refuse it."""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison
from livegraft.compare.entity import Entity
from livegraft.compare.unit import Unit
from livegraft.elf.object import Binding
from livegraft.verdict.marks import what_marks_do

_EXPORTS = ("__ksymtab_", "__export_symbol_")
"""What is put before an exported symbol's name: until 6.4, and since (linux/export.h)."""


def remarks_on(comparison: Comparison) -> Iterator[str]:
    """All remarks."""
    yield from what_marks_do(comparison)
    yield from _weak(comparison)
    for variable in comparison.inclusion.new_variables:
        yield f"{variable.name}: a new variable, which starts with its initial value"
    yield from _exported(comparison)
    yield from _dynamic_debug(comparison)
    yield from _printk_index(comparison)
    yield from _module_information(comparison)


def _weak(comparison: Comparison) -> Iterator[str]:
    for function in comparison.changed_entities:
        if comparison.patched.obj.symbols[function.symbol].binding == Binding.WEAK:
            # Which definition is used is not to be seen here; the proof knows.
            yield f"{function.name}: is a weak symbol, which another unit may override"


def _exported(comparison: Comparison) -> Iterator[str]:
    before, after = (_exports(unit) for unit in (comparison.original, comparison.patched))
    for name in sorted(after - before):
        yield f"{name}: is exported by the fix, but not by a live patch"


def _exports(unit: Unit) -> set[str]:
    """What ``EXPORT_SYMBOL()`` lists."""
    return {
        symbol.name.removeprefix(prefix)
        for symbol in unit.obj.symbols
        if symbol.name.startswith(_EXPORTS)
        for prefix in _EXPORTS
        if symbol.name.startswith(prefix)
    }


def _dynamic_debug(comparison: Comparison) -> Iterator[str]:
    """``pr_debug()`` that was turned on: the control file has a new entry for the new code."""
    for function in comparison.changed_entities:
        original = comparison.original_of(function)
        if original is None:
            continue
        parts = (original, *original.parts)
        if any(_is_debug(comparison.original, part) for part in parts):
            yield (
                f"{original.name}: pr_debug() of the new code starts off, and is turned on under "
                "the live patch's name"
            )


def _is_debug(unit: Unit, function: Entity) -> bool:
    return any(
        isinstance(use.target, Entity) and unit.section(use.target).name == sections.DYNAMIC_DEBUG
        for use in unit.uses(function)
    )


def _printk_index(comparison: Comparison) -> Iterator[str]:
    """With ``CONFIG_PRINTK_INDEX`` each ``printk()`` has an entry, to which no code refers."""
    is_listed = any(each.name == sections.PRINTK_INDEX for each in comparison.patched.obj.sections)
    if is_listed and comparison.changed_entities:
        yield f"{sections.PRINTK_INDEX}: messages of new code are not in the index of messages"


def _module_information(comparison: Comparison) -> Iterator[str]:
    """``MODULE_ALIAS()``, ``MODULE_FIRMWARE()`` ...: tools read them from the module's file."""
    before, after = (_information(unit) for unit in (comparison.original, comparison.patched))
    if before != after:
        listed = ", ".join(sorted(before ^ after))
        yield f".modinfo: a live patch does not change what modinfo tells of a module ({listed})"


def _information(unit: Unit) -> set[str]:
    data = b"\0".join(each.data for each in unit.obj.sections if each.name == ".modinfo")
    return {text.decode("utf-8", "replace") for text in data.split(b"\0") if text}
