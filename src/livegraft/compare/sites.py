# SPDX-License-Identifier: GPL-2.0-or-later
"""Places that the kernel rewrites while it loads a module, before it knows symbols of modules.

Livepatch relocations to a module's symbols are applied when the patch is enabled or that module
comes, which is after alternatives, paravirt sites and jump labels of the payload were processed.
So none may lie in there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.inclusion import Inclusion
from livegraft.compare.references import References
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.arch.architecture import Table
from livegraft.errors import Reason

_TRACEPOINT = "__tracepoint_"


@dataclass(slots=True)
class Sites:
    """What becomes of such places in a payload.

    Args:
        turned_off: jump table entries that get a key of the payload's own, which is never on.
        reasons: why the code cannot be a payload.
        warnings: what was turned off.
    """

    turned_off: set[Entity] = field(default_factory=set)
    reasons: list[Reason] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_sites(unit: Unit, inclusion: Inclusion, references: References) -> Sites:
    """Look at all places of a payload that the kernel rewrites at load time."""
    sites = Sites()
    for entity in inclusion.in_order():
        for entry in entity.entries:
            if entry.name == arch.JUMP_TABLE:
                _judge_jump_label(unit, inclusion, references, entity, entry, sites)
            elif arch.TABLES.get(entry.name, Table(1)).patches:
                _judge_patched(unit, inclusion, references, entity, entry, sites)
            else:
                _judge_table(unit, inclusion, references, entity, entry, sites)
        if entity.kind is Kind.DATA and sections.is_per_cpu(unit.section(entity).name):
            _judge_per_cpu(unit, entity, sites)
    return sites


def _to_module(
    unit: Unit, inclusion: Inclusion, references: References, part: Entity
) -> Iterator[Use]:
    """The uses of a part that wait for a module."""
    for use in unit.uses(part):
        target = use.target
        if isinstance(target, Entity):
            stays = inclusion.is_included(target) or target.kind is Kind.ENTRY
            if stays and not inclusion.means_original(unit, use, part):
                continue
        if references.is_in_module(target):
            yield use


def _name(target: Entity | str) -> str:
    return target if isinstance(target, str) else target.name


def _judge_jump_label(
    unit: Unit,
    inclusion: Inclusion,
    references: References,
    function: Entity,
    entry: Entity,
    sites: Sites,
) -> None:
    keys = list(_to_module(unit, inclusion, references, entry))
    if not keys:
        return
    key = _name(keys[-1].target)
    if key.startswith(_TRACEPOINT):
        sites.turned_off.add(entry)
        event = key.removeprefix(_TRACEPOINT)
        sites.warnings.append(f"{function.top.name}: the new code does not fire tracepoint {event}")
        return
    sites.reasons.append(
        Reason(
            "module-static-key",
            function.top.name,
            f"depends on the static key {key}, which lies in a module",
            "read the key with static_key_enabled() in the fix",
        )
    )


def _judge_patched(
    unit: Unit,
    inclusion: Inclusion,
    references: References,
    function: Entity,
    entry: Entity,
    sites: Sites,
) -> None:
    """An alternative or a paravirt call: neither it nor the code it replaces may wait."""
    data = unit.obj.sections[entry.section].data[entry.start : entry.end]
    length_at = arch.PARAVIRT_LENGTH_AT
    if entry.name == arch.ALTERNATIVES:
        known = arch.REPLACED_LENGTH_AT.get(len(data))
        if known is None:
            text = f"has entries of {len(data)} bytes, which is not known"
            remedy = "report the kernel's release"
            sites.reasons.append(Reason("unknown-section", entry.name, text, remedy))
            return
        length_at = known
    start = function.value + unit.place(entry)
    replaced = range(start, start + data[length_at])
    found = [
        use for use in _to_module(unit, inclusion, references, function) if use.offset in replaced
    ]
    for use in unit.uses(entry):
        if isinstance(use.target, Entity) and use.target.kind is Kind.SNIPPET:
            found += _to_module(unit, inclusion, references, use.target)
    for use in found:
        sites.reasons.append(
            Reason(
                "module-alternative",
                function.top.name,
                f"has alternative instructions that refer to {_name(use.target)} in a module",
                "leave this function out of the fix, or boot a kernel with the fix",
            )
        )


def _judge_table(
    unit: Unit,
    inclusion: Inclusion,
    references: References,
    function: Entity,
    entry: Entity,
    sites: Sites,
) -> None:
    for use in _to_module(unit, inclusion, references, entry):
        sites.reasons.append(
            Reason(
                "module-table",
                function.top.name,
                f"has an entry in {entry.name} that refers to {_name(use.target)} in a module",
                "leave this function out of the fix, or boot a kernel with the fix",
            )
        )


def _judge_per_cpu(unit: Unit, variable: Entity, sites: Sites) -> None:
    """A module's per-CPU section is not ALLOC any more when relocations are applied, so all of them
    are skipped there (kernel/module/main.c, ``layout_and_allocate``, ``apply_relocations``)."""
    for use in unit.uses(variable):
        sites.reasons.append(
            Reason(
                "per-cpu-pointer",
                variable.name,
                f"is a new per-CPU variable that starts with a pointer to {_name(use.target)}",
                "set the pointer at run time",
            )
        )
