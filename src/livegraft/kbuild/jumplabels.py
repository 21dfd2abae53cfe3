# SPDX-License-Identifier: GPL-2.0-or-later
"""Jump label sites: the places in code where compiler output and shipped code may differ.

With CONFIG_HAVE_JUMP_LABEL_HACK the compiler writes a jump at each site, and objtool turns those
that are not taken at boot into NOPs of the same length (handle_jump_alt() of
tools/objtool/check.c).
"""

from __future__ import annotations

from livegraft.elf.object import ElfObject

TABLE = "__jump_table"
_ENTRY_SIZE = 16
"""``struct jump_entry`` of include/linux/jump_label.h: two 32-bit offsets and a 64-bit key."""
_JUMP_LENGTHS = {0xEB: 2, 0xE9: 5}
_NOPS = {2: bytes.fromhex("6690"), 5: bytes.fromhex("0f1f440000")}
"""``x86_nops`` of arch/x86/include/asm/nops.h."""


def jump_sites(unit: ElfObject) -> dict[int, tuple[int, ...]]:
    """Per section number, the offsets of the jump label sites."""
    sites: dict[int, list[int]] = {}
    number = unit.section_number(TABLE)
    if number is None:
        return {}
    for entry in unit.sections[number].relocations:
        if int(entry["offset"]) % _ENTRY_SIZE == 0:
            symbol = unit.symbols[int(entry["symbol"])]
            offset = symbol.value + int(entry["addend"])
            sites.setdefault(symbol.section, []).append(offset)
    return {section: tuple(sorted(offsets)) for section, offsets in sites.items()}


def turned_into_nop(unit: bytes, shipped: bytes) -> int:
    """The length of the jump at a site if objtool turned it into a NOP, else 0.

    Args:
        unit: the unit's bytes from the site on, five at most.
        shipped: the shipped bytes there.
    """
    length = _JUMP_LENGTHS.get(unit[0], 0) if unit else 0
    return length if length and shipped[:length] == _NOPS[length] else 0
