# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of a module's code that the kernel rewrites, exactly: what its tables list.

Each table names places in the code. How many bytes are rewritten at one stands in its entry, or in
the instruction that is there (arch/x86/kernel/alternative.c, static_call.c, jump_label.c and
ftrace.c). Entries differ between kernels, so that their size is taken from the table's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from livegraft.errors import LivegraftError
from livegraft.survey.objectfile import RESERVED, Elf


def _branch(code: bytes) -> int:
    """Bytes of a direct call or jump: a conditional one and a prefix (CS) have one more."""
    return 6 if code[0] == 0x2E or (code[0] == 0x0F and code[1] & 0xF0 == 0x80) else 5


def _jump_label(code: bytes) -> int:
    """Bytes of a jump or of what is in its place: a short jump, or ``66 90``, has two."""
    return 2 if code[0] in (0xEB, 0x66) else 5


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of places in the code.

    Args:
        relocations: of an entry; the first is for the place.
        recorded: which byte of an entry has the length, from its end if negative.
        measured: the length by the instruction, if the entry has none.
    """

    relocations: int = 1
    recorded: int | None = None
    measured: Callable[[bytes], int] = _branch


_TABLES = {
    ".altinstructions": _Table(2, recorded=-2),  # struct alt_instr, instrlen
    ".parainstructions": _Table(recorded=9),  # struct paravirt_patch_site, len
    ".static_call_sites": _Table(2),
    ".retpoline_sites": _Table(),
    ".return_sites": _Table(),
    ".call_sites": _Table(),
    "__mcount_loc": _Table(),
    "__jump_table": _Table(3, measured=_jump_label),
}


def rewritten(elf: Elf, data: bytes) -> set[tuple[int, int]]:
    """Section and offset of each byte of code that the kernel rewrites.

    Args:
        elf: the module.
        data: its file.

    Raises:
        LivegraftError: a table's entries differ in size.
    """
    return {
        (section, at)
        for number, name in enumerate(elf.names)
        if name in _TABLES
        for section, start, length in _spans(elf, data, number, _TABLES[name])
        for at in range(start, start + length)
    }


def _spans(elf: Elf, data: bytes, number: int, table: _Table) -> Iterator[tuple[int, int, int]]:
    """Section, offset and length of each place of a table."""
    every = [each for each in (*elf.relocations, *elf.livepatch) if each.section == number]
    count = len(every) // table.relocations
    size = elf.sizes[number] // max(count, 1)
    if size * count != elf.sizes[number] or len(every) % table.relocations:
        raise LivegraftError(elf.names[number], "has entries of different sizes")
    for each in every:
        symbol = elf.symbols[each.symbol]
        if each.offset % size or not 0 < symbol.section < RESERVED:
            continue
        start = symbol.value + each.addend
        if table.recorded is not None:
            entry = _content(elf, data, number, each.offset, size)
            yield symbol.section, start, entry[table.recorded]
        else:
            code = _content(elf, data, symbol.section, start, 2)
            yield symbol.section, start, table.measured(code)


def _content(elf: Elf, data: bytes, section: int, offset: int, size: int) -> bytes:
    at = elf.places[section] + offset
    return data[at : at + size]
