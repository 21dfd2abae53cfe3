# SPDX-License-Identifier: GPL-2.0-or-later
"""Livepatch symbols and relocations, written into a finished module.

Format: Documentation/livepatch/module-elf-format.rst. A symbol ``.klp.sym.OBJECT.NAME,SYMPOS`` lies
in the reserved section SHN_LIVEPATCH; the relocations that use it stand in a section
``.klp.rela.OBJECT.SECTION``, which the kernel applies when OBJECT is there: for vmlinux when the
module is loaded (kernel/module/main.c, apply_relocations), for a module when the patch is enabled or
the module comes (kernel/livepatch/core.c, klp_init_object_loaded).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from livegraft.changeset import VMLINUX, Reference, Target
from livegraft.elf.header import SHN_LIVEPATCH, SectionFlag, SectionType
from livegraft.elf.object import ElfObject, Section
from livegraft.errors import ModuleError

SYMBOL_PREFIX = ".klp.sym."
SECTION_PREFIX = ".klp.rela."

EARLY = frozenset(
    (".altinstructions", ".altinstr_replacement", "__jump_table", ".static_call_sites")
    + (".parainstructions", ".retpoline_sites", ".return_sites", "__tracepoints", "__ex_table")
)
"""Sections that are consumed before the relocations to a module's symbols are applied."""

LONGEST_NAME = 511
"""klp_resolve_symbols() reads names with ``%511[^,]``."""


def symbol_name(target: Target) -> str:
    """The livepatch symbol of a target."""
    return f"{SYMBOL_PREFIX}{target.object}.{target.name},{target.sympos}"


def section_name(owner: str, section: str) -> str:
    """The section for relocations of `section` that are applied when `owner` is there."""
    return f"{SECTION_PREFIX}{owner}.{section}"


def write_livepatch(obj: ElfObject, references: Mapping[str, Reference]) -> int:
    """Turn the undefined symbols of `references` into livepatch symbols.

    Symbol numbers stay what they are.

    Args:
        obj: the linked module; changed in place.
        references: by the undefined symbol's name.

    Returns:
        How many relocations were moved.

    Raises:
        ModuleError: a relocation would be applied too late, or a name is too long.
    """
    owners: dict[int, str] = {}
    for number, symbol in enumerate(obj.symbols):
        reference = references.get(symbol.name)
        if reference is None or not symbol.is_undefined:
            continue
        if len(reference.target.name) > LONGEST_NAME:
            raise ModuleError(reference.target.name, "is too long for a livepatch symbol")
        if reference.target.object != VMLINUX and reference.owner == VMLINUX:
            raise ModuleError(
                symbol.name, f"lies in {reference.target.object}, which vmlinux cannot wait for"
            )
        symbol.name = symbol_name(reference.target)
        symbol.section = SHN_LIVEPATCH
        owners[number] = reference.owner
    moved = 0
    for number in range(1, len(obj.sections)):
        moved += _move(obj, number, owners)
    return moved


def _move(obj: ElfObject, number: int, owners: Mapping[int, str]) -> int:
    section = obj.sections[number]
    if section.type == SectionType.RELA or not len(section.relocations):
        return 0
    users = np.array([owners.get(int(each), "") for each in section.relocations["symbol"]])
    for owner in sorted(set(users.tolist()) - {""}):
        if owner != VMLINUX and section.name in EARLY:
            raise ModuleError(
                section.name,
                f"refers to a symbol of {owner}, but is used before {owner} may be there",
                "report the fix; boot a kernel with it meanwhile",
            )
        obj.add_section(
            Section(
                section_name(owner, section.name),
                SectionType.RELA,
                SectionFlag.ALLOC | SectionFlag.INFO_LINK | SectionFlag.RELA_LIVEPATCH,
                alignment=8,
                entry_size=24,
                info=number,
                relocations=section.relocations[users == owner],
            )
        )
    section.relocations = section.relocations[users == ""]
    return int((users != "").sum())
