# SPDX-License-Identifier: GPL-2.0-or-later
"""Constants that the kernel writes into its code while it boots.

From 6.11 on ``runtime_const_ptr(sym)`` is ``movabs $0x0123456789abcdef, %reg`` in built-in code,
and ``runtime_ptr_SYM`` lists where (arch/x86/include/asm/runtime-const.h). The boot writes the
value of the variable SYM there; in modules nobody does. Modules are compiled to read the variable
instead (``#define runtime_const_ptr(sym) (sym)`` of arch/x86/include/asm/uaccess_64.h): nothing
writes to it after the boot. So does new code, once the instruction is made a load.

There is no room for that in ``runtime_const_shift_right_32``, three bytes with the number of bits.
"""

from __future__ import annotations

from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_PC32
from livegraft.elf.header import SHN_UNDEF, Machine
from livegraft.elf.object import Binding, ElfObject, Section, Symbol

_POINTER = "runtime_ptr_"
_PREFIXES = (_POINTER, "runtime_shift_")

_NOP = bytes.fromhex("0f1f00")
_LOAD_FIELD = 1
"""Where the load's displacement lies, counted from the immediate of the instruction before."""


def is_runtime_constant(section: str) -> bool:
    """Whether a section lists places whose constants are written at boot."""
    return section.startswith(_PREFIXES)


def constant_of(section: str) -> str:
    """The variable whose value is written at the places of such a section."""
    return section.split("_", 2)[2]


def read_variables(obj: ElfObject) -> None:
    """Let code read the variables whose values the boot would write into it.

    Args:
        obj: a compiled object, which is changed. What is not known stays as it is.
    """
    if obj.machine != Machine.X86_64:
        return
    for section in obj.sections:
        if section.name.startswith(_POINTER) and _rewrite(obj, section):
            section.data, section.size = b"", 0
            section.relocations = elf.no_relocations()


def _rewrite(obj: ElfObject, table: Section) -> bool:
    """Make loads of all instructions of a table; False if one is none that is known."""
    places = []
    for entry in table.relocations:
        symbol = obj.symbols[int(entry["symbol"])]
        place = symbol.value + int(entry["addend"])
        known = int(entry["type"]) == R_PC32 and symbol.in_section
        if not known or _load(obj.sections[symbol.section].data[place - 2 : place]) is None:
            return False
        places.append((symbol.section, place))
    variable = _symbol(obj, constant_of(table.name))
    for number, place in places:
        code = obj.sections[number]
        load = _load(code.data[place - 2 : place])
        assert load is not None
        code.data = b"".join((code.data[: place - 2], load, code.data[place + 8 :]))
        entries = [*code.relocations.tolist(), (place + _LOAD_FIELD, R_PC32, variable, -4)]
        code.relocations = elf.relocations(sorted(entries))
    return True


def _load(prefix: bytes) -> bytes | None:
    """``mov VARIABLE(%rip), %reg`` and a nop, for the REX prefix and opcode of ``movabs``."""
    if len(prefix) != 2 or prefix[0] not in (0x48, 0x49) or not 0xB8 <= prefix[1] <= 0xBF:
        return None
    # REX.B, which extends the register in the opcode, becomes REX.R.
    rex = 0x48 | (prefix[0] & 1) << 2
    return bytes((rex, 0x8B, (prefix[1] & 7) << 3 | 5, *bytes(4), *_NOP))


def _symbol(obj: ElfObject, name: str) -> int:
    for number, symbol in enumerate(obj.symbols):
        if symbol.name == name:
            return number
    return obj.add_symbol(Symbol(name, SHN_UNDEF, binding=Binding.GLOBAL))
