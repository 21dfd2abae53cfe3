# SPDX-License-Identifier: GPL-2.0-or-later
"""Livepatch symbols and relocations, written into a linked module.

The format is Documentation/livepatch/module-elf-format.rst of the kernel. An undefined symbol
becomes ``.klp.sym.OBJECT.NAME,SYMPOS`` with the section index SHN_LIVEPATCH; relocations against it
move into ``.klp.rela.OWNER.SECTION``. Those of ``vmlinux`` are applied with the module's own
(``apply_relocations()`` of kernel/module/main.c, before any table of the module is used); those of
a module when both are loaded (``klp_write_object_relocs()`` of kernel/livepatch/core.c), which is
after the loader has used alternatives, jump labels, static calls and call sites.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from livegraft.changeset import VMLINUX, Reference, Target
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.header import SHN_LIVEPATCH, SectionFlag, SectionType
from livegraft.elf.object import ElfObject, Relocations, Section
from livegraft.errors import ModuleError

SYMBOL_PREFIX = ".klp.sym."
SECTION_PREFIX = ".klp.rela."
FLAGS = SectionFlag.ALLOC | SectionFlag.INFO_LINK | SectionFlag.RELA_LIVEPATCH

OURSELVES = "livegraft"
"""Stands for the object in the names of sections that the module applies itself: there is no object
of that name, so the kernel leaves them alone. They refer to ``vmlinux``."""

STATIC_CALL_SITES = ".static_call_sites"
"""Calls that ``static_call_add_module()`` rewrites while the module is loaded: pairs of ``s32``,
the place of five bytes and the key (``struct static_call_site``)."""

LATE_SECTIONS = (".text", ".data", ".rodata")
"""How the names of sections begin in which a relocation may wait for a module. Whatever else holds
relocations is a table that something has read by then, or may have."""

PER_CPU = ".data..percpu"
"""The loader takes ALLOC from this section before relocations are applied, which skips them."""

CALL_SITES = ".call_sites"
"""Calls that count call depth (CONFIG_MITIGATION_CALL_DEPTH_TRACKING): one ``s32`` each."""

_REMEDY = "write the fix so that it does not need this symbol there, or boot a kernel with the fix"


def symbol_name(target: Target) -> str:
    """The name of a livepatch symbol."""
    return f"{SYMBOL_PREFIX}{target.object}.{target.name},{target.sympos}"


def section_name(owner: str, section: str) -> str:
    """The name of the section of livepatch relocations of `owner` that apply to `section`."""
    return f"{SECTION_PREFIX}{owner}.{section.removeprefix('.')}"


def write_relocations(
    obj: ElfObject, references: Mapping[str, Reference], by_kernel: Collection[str] | None = None
) -> dict[str, int]:
    """Turn undefined symbols into livepatch symbols, and their relocations too.

    Args:
        obj: the linked module, changed in place. No symbol is renumbered.
        references: undefined symbol's name to its meaning.
        by_kernel: if the module applies relocations to ``vmlinux`` itself, the symbols that it
            needs for that; None if the kernel applies all.

    Returns:
        How many relocations there are for each of the names.

    Raises:
        ModuleError: the module has no such symbol, or a relocation cannot be made in time.
    """
    numbers = _mark_symbols(obj, references)
    lookup = np.full(len(obj.symbols), False)
    lookup[list(numbers)] = True
    counts = dict.fromkeys(references, 0)
    _drop_call_sites(obj, numbers)
    for number, section in list(enumerate(obj.sections)):
        entries = section.relocations
        moving = lookup[entries["symbol"]]
        if not moving.any():
            continue
        section.relocations = entries[~moving]
        for owner, own in _by_owner(entries[moving], numbers):
            _check_places(obj, number, owner, own, numbers)
            if by_kernel is not None and owner == VMLINUX:
                itself = _applied_itself(obj, number, own, numbers, by_kernel)
                groups = [(VMLINUX, own[~itself]), (OURSELVES, own[itself])]
            else:
                groups = [(owner, own)]
            for word, group in groups:
                if len(group):
                    _add_section(obj, number, word, group)
        for symbol in entries["symbol"][moving].tolist():
            counts[numbers[symbol].symbol] += 1
    return counts


def _add_section(obj: ElfObject, number: int, owner: str, relocations: Relocations) -> None:
    obj.add_section(
        Section(
            section_name(owner, obj.sections[number].name),
            SectionType.RELA,
            FLAGS,
            alignment=8,
            entry_size=24,
            info=number,
            relocations=relocations,
        )
    )


def _applied_itself(
    obj: ElfObject,
    number: int,
    entries: Relocations,
    numbers: Mapping[int, Reference],
    by_kernel: Collection[str],
) -> npt.NDArray[np.bool_]:
    """Which relocations of a section can wait for the module's own init."""
    section = obj.sections[number]
    if not _is_late(section):
        return np.zeros(len(entries), bool)
    sites = [*alternative_sites(obj, number), *_static_call_sites(obj, number)]
    return np.array(
        [
            numbers[symbol].symbol not in by_kernel
            and not any(
                start < offset + arch.RELOCATION_SIZES[kind] and offset < end
                for start, end in sites
            )
            for offset, kind, symbol in zip(
                entries["offset"].tolist(),
                entries["type"].tolist(),
                entries["symbol"].tolist(),
                strict=True,
            )
        ],
        bool,
    )


def _static_call_sites(obj: ElfObject, number: int) -> list[tuple[int, int]]:
    """Where a section's static calls are, from and to."""
    table = obj.section_number(STATIC_CALL_SITES)
    if table is None:
        return []
    places = [
        _place(obj, entry)
        for entry in obj.sections[table].relocations
        if int(entry["offset"]) % 8 == 0
    ]
    return [(offset, offset + 5) for section, offset in places if section == number]


def _mark_symbols(obj: ElfObject, references: Mapping[str, Reference]) -> dict[int, Reference]:
    numbers = {}
    for number, symbol in enumerate(obj.symbols):
        reference = references.get(symbol.name)
        if reference is not None:
            if not symbol.is_undefined:
                raise ModuleError(symbol.name, "is defined, and should be a livepatch symbol")
            symbol.name = symbol_name(reference.target)
            symbol.section = SHN_LIVEPATCH
            numbers[number] = reference
    missing = set(references) - {reference.symbol for reference in numbers.values()}
    if missing:
        raise ModuleError(min(missing), "is not in the linked module, which has to refer to it")
    return numbers


def _by_owner(
    entries: Relocations, numbers: Mapping[int, Reference]
) -> Iterator[tuple[str, Relocations]]:
    owners = np.array([numbers[symbol].owner for symbol in entries["symbol"].tolist()])
    for owner in sorted(set(owners.tolist()), key=lambda name: (name != VMLINUX, name)):
        yield owner, entries[owners == owner]


def _check_places(
    obj: ElfObject,
    number: int,
    owner: str,
    entries: Relocations,
    numbers: Mapping[int, Reference],
) -> None:
    section = obj.sections[number]
    early = alternative_sites(obj, number) if owner != VMLINUX and section.is_code else []
    for offset, kind, symbol in zip(
        entries["offset"].tolist(),
        entries["type"].tolist(),
        entries["symbol"].tolist(),
        strict=True,
    ):
        name = numbers[symbol].target.name
        size = arch.RELOCATION_SIZES.get(kind, 0)
        if size == 0:
            problem = f"the kernel knows no relocation of type {kind}, as {name} has in"
            raise ModuleError(section.name, f"{problem} this section")
        # apply_relocate_add() refuses to write over anything but zeros.
        if any(section.data[offset : offset + size]) or offset + size > section.size:
            raise ModuleError(section.name, f"the place of a relocation to {name} is not zero")
        if section.name.startswith(PER_CPU):
            raise ModuleError(section.name, f"refers to {name}, which no loader resolves", _REMEDY)
        if owner == VMLINUX:
            continue
        if not _is_late(section):
            problem = f"refers to {name} in {owner}, and is used before that module's symbols are"
            raise ModuleError(section.name, f"{problem} known", _REMEDY)
        if any(start < offset + size and offset < end for start, end in early):
            problem = f"an alternative stands where {name} in {owner} is referred to"
            raise ModuleError(section.name, problem, _REMEDY)


def _is_late(section: Section) -> bool:
    return any(
        section.name == name or section.name.startswith(f"{name}.") for name in LATE_SECTIONS
    )


def alternative_sites(obj: ElfObject, number: int) -> list[tuple[int, int]]:
    """Where the alternatives' original instructions of a section are, from and to.

    ``apply_alternatives()`` overwrites them while the module is loaded. ``struct alt_instr`` begins
    with two ``s32``, place and replacement.
    """
    table = obj.section_number(arch.ALTERNATIVES)
    if table is None or not obj.sections[table].size:
        return []
    section = obj.sections[table]
    size = section.size * 2 // max(len(section.relocations), 1)
    length_at = arch.REPLACED_LENGTH_AT.get(size)
    if length_at is None or section.size % size:
        raise ModuleError(section.name, f"has entries of an unknown size ({size} bytes)")
    places = {entry["offset"].item(): entry for entry in section.relocations}
    sites = []
    for start in range(0, section.size, size):
        if start not in places:
            raise ModuleError(section.name, f"the entry at {start} has no place")
        target, offset = _place(obj, places[start])
        if target == number:
            sites.append((offset, offset + section.data[start + length_at]))
    return sites


def _place(obj: ElfObject, entry: np.void) -> tuple[int, int]:
    """Section and offset that a PC-relative entry of a table points to."""
    symbol = obj.symbols[int(entry["symbol"])]
    return symbol.section, symbol.value + int(entry["addend"])


def _drop_call_sites(obj: ElfObject, numbers: Mapping[int, Reference]) -> None:
    """Take calls of a module's functions out of the table of calls that count depth.

    ``callthunks_patch_module_calls()`` reads where each call leads while the module is loaded, when
    these lead nowhere yet: it would take the next instruction for a function.
    """
    table = obj.section_number(CALL_SITES)
    if table is None:
        return
    late = {
        (number, int(entry["offset"]) - 1)
        for number, section in enumerate(obj.sections)
        if section.is_code
        for entry in section.relocations
        if int(entry["symbol"]) in numbers and numbers[int(entry["symbol"])].owner != VMLINUX
    }
    section = obj.sections[table]
    if section.size != 4 * len(section.relocations) or any(section.data):
        raise ModuleError(CALL_SITES, "is not a table of relative addresses")
    kept = [entry for entry in section.relocations if _place(obj, entry) not in late]
    if len(kept) < len(section.relocations):
        section.relocations = np.array(kept, dtype=section.relocations.dtype)
        section.relocations["offset"] = 4 * np.arange(len(kept))
        section.size = 4 * len(kept)
        section.data = bytes(section.size)
