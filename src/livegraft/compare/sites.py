# SPDX-License-Identifier: GPL-2.0-or-later
"""Places that the kernel rewrites while it loads a module, before it knows symbols of modules.

Livepatch relocations to a module's symbols are applied when the patch is enabled or that module
comes, which is after alternatives, paravirt sites and jump labels of the payload were processed.
So none may lie in there.
"""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.compare import sections
from livegraft.compare.entity import Entity, Kind
from livegraft.compare.inclusion import Inclusion
from livegraft.compare.references import References
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.arch.architecture import Table
from livegraft.errors import Reason

_TRACEPOINT = "__tracepoint_"


class Sites:
    """What becomes of the places of a payload that the kernel rewrites at load time.

    Args:
        unit: the patched object.
        inclusion: what the payload holds.
        references: what it refers to in the running kernel.

    Attributes:
        turned_off: jump table entries that get a key of the payload's own, which is never on.
        reasons: why the code cannot be a payload.
        warnings: what was turned off.
    """

    def __init__(self, unit: Unit, inclusion: Inclusion, references: References) -> None:
        self._unit = unit
        self._inclusion = inclusion
        self._references = references
        self.turned_off: set[Entity] = set()
        self.reasons: list[Reason] = []
        self.warnings: list[str] = []
        for entity in inclusion.in_order():
            for entry in entity.entries:
                self._judge(entity, entry)
            if entity.kind is Kind.DATA and sections.is_per_cpu(unit.section(entity).name):
                self._judge_per_cpu(entity)

    def _judge(self, function: Entity, entry: Entity) -> None:
        if entry.name == arch.JUMP_TABLE:
            self._judge_jump_label(function, entry)
        elif arch.TABLES.get(entry.name, Table(1)).patches:
            self._judge_patched(function, entry)
        else:
            self._judge_table(function, entry)

    def _to_module(self, part: Entity) -> Iterator[Use]:
        """The uses of a part that wait for a module."""
        for use in self._unit.uses(part):
            target = use.target
            if isinstance(target, Entity):
                stays = self._inclusion.is_included(target) or target.kind is Kind.ENTRY
                if stays and not self._inclusion.means_original(self._unit, use, part):
                    continue
            if self._references.is_in_module(target):
                yield use

    def _judge_jump_label(self, function: Entity, entry: Entity) -> None:
        keys = list(self._to_module(entry))
        if not keys:
            return
        key = _name(keys[-1].target)
        if key.startswith(_TRACEPOINT):
            self.turned_off.add(entry)
            event = key.removeprefix(_TRACEPOINT)
            self.warnings.append(
                f"{function.top.name}: the new code does not fire tracepoint {event}"
            )
            return
        self.reasons.append(
            Reason(
                "module-static-key",
                function.top.name,
                f"depends on the static key {key}, which lies in a module",
                "read the key with LIVEGRAFT_KEY_ENABLED() of livegraft.h in the fix",
            )
        )

    def _judge_patched(self, function: Entity, entry: Entity) -> None:
        """An alternative or a paravirt call: neither it nor the code it replaces may wait."""
        data = self._unit.obj.sections[entry.section].data[entry.start : entry.end]
        length_at = arch.PARAVIRT_LENGTH_AT
        if entry.name == arch.ALTERNATIVES:
            known = arch.REPLACED_LENGTH_AT.get(len(data))
            if known is None:
                text = f"has entries of {len(data)} bytes, which is not known"
                remedy = "report the kernel's release"
                self.reasons.append(Reason("unknown-section", entry.name, text, remedy))
                return
            length_at = known
        start = function.value + self._unit.place(entry)
        replaced = range(start, start + data[length_at])
        found = [use for use in self._to_module(function) if use.offset in replaced]
        for use in self._unit.uses(entry):
            if isinstance(use.target, Entity) and use.target.kind is Kind.SNIPPET:
                found += self._to_module(use.target)
        for use in found:
            self.reasons.append(
                Reason(
                    "module-alternative",
                    function.top.name,
                    f"has alternative instructions that refer to {_name(use.target)} in a module",
                    "call it there in the ordinary way (a static call: LIVEGRAFT_STATIC_CALL()), "
                    "or leave this function out of the fix",
                )
            )

    def _judge_table(self, function: Entity, entry: Entity) -> None:
        for use in self._to_module(entry):
            self.reasons.append(
                Reason(
                    "module-table",
                    function.top.name,
                    f"has an entry in {entry.name} that refers to {_name(use.target)} in a module",
                    "leave this function out of the fix, or boot a kernel with the fix",
                )
            )

    def _judge_per_cpu(self, variable: Entity) -> None:
        """A module's per-CPU section is not ALLOC any more when relocations are applied, so all of
        them are skipped (kernel/module/main.c, ``layout_and_allocate``, ``apply_relocations``)."""
        for use in self._unit.uses(variable):
            self.reasons.append(
                Reason(
                    "per-cpu-pointer",
                    variable.name,
                    f"is a new per-CPU variable that starts with a pointer to {_name(use.target)}",
                    "set the pointer at run time",
                )
            )


def _name(target: Entity | str) -> str:
    return target if isinstance(target, str) else target.name
