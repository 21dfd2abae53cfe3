# SPDX-License-Identifier: GPL-2.0-or-later
"""Indirect branch tracking: every address that new code takes of a function can be called.

What objtool's ``validate_ibt()`` (tools/objtool/check.c) checks within one linked object is checked
here for a live patch and the kernel that it runs in. An address is taken by every relocation but
those of direct calls and jumps and of tables that no pointer is read from. Each has to lead to
ENDBR64 that stays (:mod:`livegraft.kernel.entrance`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from livegraft.changeset import Piece, Target
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_32, R_32S, R_64, R_PC32, R_PC64, R_PLT32
from livegraft.elf.header import SectionType
from livegraft.elf.object import ElfObject, Section, SymbolType
from livegraft.errors import ModuleError, Reason
from livegraft.kernel.entrance import Entrance, Entrances, entrance_in
from livegraft.module.klp import livepatch_targets
from livegraft.module.link import FUNCTION_ARRAY

RULE = "no-endbr"

_BAD = (Entrance.SEALED, Entrance.CLOSED)
_RELATIVE = (R_PC32, R_PLT32, R_PC64)
_POINTERS = (R_64, R_32, R_32S, *_RELATIVE)
_FIELD = 4
"""Bytes from a relative field of an instruction to its end: a pointer is loaded by ``lea``, or
``mov`` without memory operand, and neither has anything behind the field."""

_TABLES = (
    *(".discard", ".altinstructions", ".ibt_endbr_seal", ".orc_unwind_ip", ".parainstructions"),
    *(".retpoline_sites", ".return_sites", ".call_sites", ".cfi_sites", ".smp_locks"),
    *(".static_call_sites", "_error_injection_whitelist", "_kprobe_blacklist", "__bug_table"),
    *("__ex_table", "__jump_table", "__mcount_loc", "__tracepoints"),
    "__patchable_function_entries",
)
"""Beginnings of the names of sections whose places are looked at, patched or compared, not called
through (the list of ``validate_ibt()``, and what objtool itself adds)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An address that is taken.

    Args:
        section: the number of the section whose field gets it.
        place: offset of the field.
        symbol: the number of the symbol that it is taken of.
        offset: the distance from the symbol to what the address is of.
    """

    section: int
    place: int
    symbol: int
    offset: int


def taken_addresses(obj: ElfObject) -> Iterator[Taken]:
    """Every address that a module's or piece's code and data take, of whatever kind."""
    arrays = _arrays(obj)
    for number, section in enumerate(obj.sections):
        # A section of livepatch relocations stands for itself.
        applies_to = section.info if section.type == SectionType.RELA else number
        changed = obj.sections[applies_to]
        if not changed.is_alloc or changed.name.startswith(_TABLES):
            continue
        for entry in section.relocations:
            kind, place = int(entry["type"]), int(entry["offset"])
            if kind not in _POINTERS or (changed.is_code and _is_branch(changed, place, kind)):
                continue
            if any(place in span for span in arrays.get(applies_to, ())):
                continue
            behind = _FIELD if changed.is_code and kind in _RELATIVE else 0
            yield Taken(applies_to, place, int(entry["symbol"]), int(entry["addend"]) + behind)


def check_piece(piece: Piece, entrances: Entrances) -> list[Reason]:
    """Pointers to functions of the running kernel that could not be called through them.

    Args:
        piece: new code and what it refers to.
        entrances: those of the kernel that it is for.
    """
    obj = elf.parse(piece.data, piece.unit)
    targets = {each.symbol: each.target for each in piece.references}
    found = {}
    for taken in taken_addresses(obj):
        target = targets.get(obj.symbols[taken.symbol].name)
        if target is not None:
            entrance = entrances.of(target, taken.offset)
            if entrance in _BAD:
                found[target] = _reason(target, entrance)
    return list(found.values())


def check_module(obj: ElfObject, entrances: Entrances) -> None:
    """Check a finished module: what it takes the address of, in itself and elsewhere.

    Args:
        obj: as it was written.
        entrances: those of the kernel that it is for.

    Raises:
        ModuleError: an indirect call through a pointer of its would stop the machine.
    """
    targets = livepatch_targets(obj)
    for taken in taken_addresses(obj):
        symbol = obj.symbols[taken.symbol]
        if taken.symbol in targets:
            entrance = entrances.of(targets[taken.symbol], taken.offset)
        elif symbol.is_undefined:
            entrance = entrances.exported(symbol.name, taken.offset)
        elif symbol.in_section:
            at = symbol.value + taken.offset
            if _within_own_function(obj, taken, symbol.section, at):
                continue
            entrance = entrance_in(obj, symbol.section, at)
        else:
            continue
        if entrance in _BAD:
            where = f"{obj.sections[taken.section].name}+{taken.place:#x}"
            name = symbol.name or obj.sections[symbol.section].name
            raise ModuleError(
                f"{where}", f"takes the address of {name}+{taken.offset:#x}, which {entrance}"
            )


def _reason(target: Target, entrance: Entrance) -> Reason:
    return Reason(
        RULE,
        target.name,
        f"its address is taken, and in {target.object} it {entrance}",
        "let the fix add a function that calls it, and take the address of that one",
    )


def _is_branch(section: Section, place: int, kind: int) -> bool:
    """Whether a field is the operand of a direct call, jump or conditional jump.

    A memory operand relative to the instruction has a ModRM byte of 05, 0d ... 3d before the field,
    so that the bytes before it tell for certain (Intel SDM, volume 2, table 2-2).
    """
    if kind not in (R_PC32, R_PLT32) or place < 1:
        return False
    before = section.data[place - 1]
    return before in (0xE8, 0xE9) or (
        place >= 2 and section.data[place - 2] == 0x0F and before & 0xF0 == 0x80
    )


def _within_own_function(obj: ElfObject, taken: Taken, section: int, at: int) -> bool:
    """Whether a function takes the address of a label of its own: nothing is called there."""
    if taken.section != section:
        return False
    return any(
        symbol.section == section
        and symbol.type == SymbolType.FUNC
        and symbol.value < at < symbol.value + symbol.size
        and symbol.value <= taken.place < symbol.value + symbol.size
        for symbol in obj.symbols
    )


def _arrays(obj: ElfObject) -> Mapping[int, list[range]]:
    """Where the glue's ``struct klp_func`` lie: ftrace returns into a new function, and that is no
    indirect branch."""
    found: dict[int, list[range]] = {}
    for symbol in obj.symbols:
        if symbol.in_section and symbol.name.startswith(FUNCTION_ARRAY):
            span = range(symbol.value, symbol.value + symbol.size)
            found.setdefault(symbol.section, []).append(span)
    return found
