# SPDX-License-Identifier: GPL-2.0-or-later
"""May what a comparison found be applied live? All rules, all reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from livegraft.compare.comparison import Comparison, all_uses
from livegraft.compare.unit import Entity, Kind, UnitView, is_initial
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.header import SectionType
from livegraft.errors import Reason

Rule = Callable[[Comparison], Iterator[Reason]]

ORDINARY = (".data", ".bss", ".rodata", ".data.once", ".data..read_mostly", ".data..ro_after_init")
"""Sections in which a new variable is a variable and nothing else."""


def judge(comparison: Comparison) -> Comparison:
    """Apply every rule; the reasons are added to the comparison, which is returned."""
    for rule in RULES:
        comparison.reasons.extend(rule(comparison))
    comparison.reasons = list(dict.fromkeys(comparison.reasons))
    for entity in comparison.patched.named():
        if _is_new_variable(comparison, entity):
            comparison.warnings.append(
                f"{entity.name}: a new variable; it starts with its initial value when the patch"
                " is loaded"
            )
    return comparison


def init_code(comparison: Comparison) -> Iterator[Reason]:
    """A function that runs at boot or at a module's loading only (``inet_init``)."""
    for entity in comparison.changed:
        section = comparison.patched.section(entity).name
        if is_initial(section):
            yield Reason(
                "init-code",
                entity.name,
                f"lies in {section}: it has run already",
                "boot a kernel with the fix, or do what it would do in a callback",
            )


def no_ftrace_entry(comparison: Comparison) -> Iterator[Reason]:
    """A function that ftrace cannot redirect: ``notrace``, ``noinstr`` (``do_syscall_64``)."""
    for entity in comparison.changed:
        twin = comparison.original_of(entity)
        section = comparison.patched.section(entity).name
        if twin is None or is_initial(section):
            continue
        if not any(entry.table in arch.FTRACE_TABLES for entry in twin.entries):
            yield Reason(
                "no-ftrace-entry",
                twin.name,
                "has no ftrace entry (notrace, noinstr): a call of it cannot be redirected",
                "change its callers instead, or boot a kernel with the fix",
            )


def data_changed(comparison: Comparison) -> Iterator[Reason]:
    """A variable whose initial value or size is another (``sysctl_tcp_mem``)."""
    for entity in comparison.changed_data:
        twin = comparison.original_of(entity)
        assert twin is not None
        if twin.size != entity.size:
            yield Reason(
                "data-size-changed",
                entity.name,
                f"has {entity.size} bytes instead of {twin.size}; the running kernel's has"
                f" {twin.size}",
                "keep new state in a variable of its own or in a shadow variable",
            )
        else:
            yield Reason(
                "data-changed",
                entity.name,
                "starts with another value; the running kernel's was initialised long ago",
                "set it from a callback, or boot a kernel with the fix",
            )


def static_local_ambiguous(comparison: Comparison) -> Iterator[Reason]:
    """A numbered static local that could be one of several (``count.12`` or ``count.13``)."""
    used = {use.target for entity in included(comparison) for use in all_uses(entity)}
    for entity in comparison.pairs.ambiguous:
        if entity in used:
            yield Reason(
                "static-local-ambiguous",
                entity.name,
                "cannot be told from the other static variables of that name",
                "give the new variable a name of its own",
            )


def special_section(comparison: Comparison) -> Iterator[Reason]:
    """A new entry of a section that is read at boot or loading (``__ksymtab``, ``__param``)."""
    for entity in comparison.patched.named():
        if entity.kind is not Kind.DATA or comparison.original_of(entity) is not None:
            continue
        section = comparison.patched.section(entity).name
        if entity.is_always_new or _is_ordinary(section) or is_initial(section):
            continue
        yield Reason(
            "special-section",
            entity.name,
            f"is new in {section}, which is read at boot or when a module is loaded",
            "leave it out of the fix, or boot a kernel with the fix",
        )


def section_changed(comparison: Comparison) -> Iterator[Reason]:
    """Contents without a symbol that differ (``.initcall6.init``, inline assembly's sections)."""
    before, after = _unnamed(comparison.original), _unnamed(comparison.patched)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Reason(
                "unknown-section",
                name,
                "differs, and it is not known what that means",
                "report the fix; boot a kernel with the fix meanwhile",
            )


def group_section(comparison: Comparison) -> Iterator[Reason]:
    """New or changed COMDAT groups."""
    groups = [
        [section.name for section in view.obj.sections if section.type == SectionType.GROUP]
        for view in (comparison.original, comparison.patched)
    ]
    if groups[0] != groups[1]:
        yield Reason(
            "group-section",
            comparison.patched.subject,
            "has other section groups than the original",
            "report the fix; boot a kernel with the fix meanwhile",
        )


RULES: tuple[Rule, ...] = (
    init_code,
    no_ftrace_entry,
    data_changed,
    static_local_ambiguous,
    special_section,
    section_changed,
    group_section,
)


def included(comparison: Comparison) -> list[Entity]:
    """The functions that a payload would bring, cold parts with them."""
    bring = {*comparison.changed, *comparison.new}
    parts = [
        each
        for each in comparison.patched.entities
        if each.parent is not None and each.parent in bring
    ]
    return [*comparison.changed, *comparison.new, *parts]


def _is_new_variable(comparison: Comparison, entity: Entity) -> bool:
    return (
        entity.kind is Kind.DATA
        and not entity.is_always_new
        and comparison.original_of(entity) is None
        and comparison.patched.section(entity).name.startswith((".data", ".bss"))
    )


def _is_ordinary(section: str) -> bool:
    if section.startswith(".data..percpu"):
        return False
    return section in ORDINARY or section.startswith((".data.", ".bss.", ".rodata."))


def _unnamed(view: UnitView) -> dict[str, tuple[bytes, tuple[object, ...]]]:
    """Sections with contents but without symbols, tables and constants aside."""
    named = {entity.section for entity in view.named()}
    found = {}
    for index, section in enumerate(view.obj.sections):
        skipped = (
            index in named
            or not section.is_alloc
            or not section.size
            or section.is_strings
            or section.entry_size
            or section.name in arch.TABLES
            or section.name in (arch.REPLACEMENTS, arch.SNIPPETS)
            or section.name.startswith(arch.IGNORED)
        )
        if not skipped:
            data = bytearray(section.data)
            uses: list[object] = []
            for entity in view.entities:
                if entity.section == index:
                    for use in entity.uses:
                        size = arch.RELOCATION_SIZES[use.type]
                        data[use.offset : use.offset + size] = bytes(size)
                        target = use.target if isinstance(use.target, str) else use.target.name
                        uses.append((use.offset, use.type, target, use.delta))
            found[section.name] = (bytes(data), tuple(uses))
    return found
