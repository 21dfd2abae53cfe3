# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64: relocations, the kernel's special sections, and the few instructions that matter.

Sources: System V ABI, AMD64 supplement, table 4.9 (relocation types);
arch/x86/include/asm/{bug,jump_label,alternative,extable,paravirt_types}.h (tables).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BRANCH = 4
"""R_X86_64_PLT32. The assembler writes it for calls and jumps to global symbols and PC32 for those to
local ones; :func:`is_branch` tells the latter from pointers, and both count as this."""

ABSOLUTE_64 = 1
PC_RELATIVE_32 = 2

SHORT_BRANCH = 1 << 31
"""No relocation type of the ABI: a branch of two bytes to a neighbour in the same section, which the
assembler has resolved (``preempt_schedule`` jumps to ``preempt_schedule_common`` so)."""

RELOCATION_SIZES = {
    SHORT_BRANCH: 1,
    ABSOLUTE_64: 8,
    PC_RELATIVE_32: 4,
    BRANCH: 4,
    10: 4,  # R_X86_64_32
    11: 4,  # R_X86_64_32S
    24: 8,  # R_X86_64_PC64
}
"""Relocation types that the kernel's module loader knows (arch/x86/kernel/module.c) and the bytes
that each changes. Any other type is refused."""

PC_RELATIVE = frozenset({PC_RELATIVE_32, BRANCH, 24})

NOPS = {2: b"\x66\x90", 5: b"\x0f\x1f\x44\x00\x00"}
"""``x86_nops`` of arch/x86/kernel/alternative.c, as objtool writes them over jump label sites."""

FUNCTION_ENTRY_SPAN = 32
"""How far behind its section's or its own start a function's ftrace site may lie: ENDBR and call
padding come first (CONFIG_FUNCTION_PADDING_CFI, FUNCTION_CALL_PADDING)."""


@dataclass(frozen=True, slots=True)
class Table:
    """A section of entries that belong to functions.

    Args:
        name: the section.
        relocations: how many relocations each entry has; the entry size follows from it. The first
            one names the place in the function.
        size: entry size in bytes where relocations may be missing; 0 if it follows.
        ignored: byte ranges of an entry that are no difference (a line number).
        kept: whether a payload needs its entries.
    """

    name: str
    relocations: int
    size: int = 0
    ignored: tuple[tuple[int, int], ...] = ()
    kept: bool = True


TABLES = {
    table.name: table
    for table in (
        Table("__bug_table", 2, 12, ((8, 10),)),  # struct bug_entry: line
        Table("__ex_table", 2, 12),
        Table("__jump_table", 3, 16),
        Table(".altinstructions", 2),
        Table(".parainstructions", 1),
        Table(".smp_locks", 1, 4),
        Table("__mcount_loc", 1, 8),
        Table("__patchable_function_entries", 1, 8),
        Table(".discard.reachable", 1),
        Table(".discard.unreachable", 1),
        Table(".discard.retpoline_safe", 1),
        Table(".discard.noendbr", 1),
        Table(".discard.instr_begin", 1),
        Table(".discard.instr_end", 1),
        Table(".discard.annotate_type", 1),
        Table(".discard.annotate_data", 1),
        Table(".discard.ignore_alts", 1),
        Table(".discard.intra_function_calls", 1),
        Table(".discard.unret", 1),
        Table(".discard.validate_unret", 1),
    )
}

FTRACE_TABLES = ("__mcount_loc", "__patchable_function_entries")
REPLACEMENTS = ".altinstr_replacement"
REPLACEMENT_LENGTH_AT = {12: 11, 13: 11, 14: 13}
"""Size of ``struct alt_instr`` -> offset of ``replacementlen``: 6.1 has 12 bytes, 5.13-era 13,
from 6.3 on 14 (u32 flags)."""

SNIPPETS = ".altinstr_aux"
"""``_static_cpu_has()``: code without a symbol that replacements jump to and that jumps back."""

INITIAL = (".init.", ".exit.", ".meminit.", ".memexit.", ".cpuinit.", ".devinit.", ".head.")
"""Sections whose code has run already or never will again."""

IGNORED = (
    ".comment",
    ".note.GNU-stack",
    ".note.gnu.property",
    ".llvm_addrsig",
    ".discard.addressable",
) + (".eh_frame", ".export_symbol", ".discard.sym_func_")
"""Sections that say nothing about what runs."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: offset, length, mnemonic, operands, bytes."""

    offset: int
    size: int
    mnemonic: str
    operands: str


def instructions(code: bytes, offset: int = 0) -> Iterator[Instruction]:
    """Decode from the beginning; stops at what is no instruction."""
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    for address, size, mnemonic, operands in Cs(CS_ARCH_X86, CS_MODE_64).disasm_lite(code, offset):
        yield Instruction(address, size, mnemonic, operands)


def branch_target(instruction: Instruction) -> int | None:
    """The offset that a direct jump or call leads to, or None for all other instructions."""
    is_branch = instruction.mnemonic.startswith(("j", "call", "loop"))
    if is_branch and instruction.operands.startswith("0x"):
        return int(instruction.operands, 16)
    return None


def is_branch(code: bytes, field: int) -> bool:
    """Whether the 32-bit field at `field` is a call's or jump's: E8, E9, 0F 80..8F come before it.

    What comes before a pointer's field is a ModRM byte with mod 00 and r/m 101, never one of these.
    """
    if field < 2:
        return field == 1 and code[0] in (0xE8, 0xE9)
    last = code[field - 1]
    return last in (0xE8, 0xE9) or (last & 0xF0 == 0x80 and code[field - 2] == 0x0F)


def immediate_range(instruction: Instruction, code: bytes) -> range:
    """The bytes of a ``mov $imm32, register`` or ``mov $imm32, stack slot``: where a line number is.

    Args:
        code: the code that the instruction's offset refers to.
    """
    end = instruction.offset + instruction.size
    if instruction.mnemonic in ("mov", "movabs") and instruction.size >= 5:
        opcode = code[instruction.offset : end]
        at = 1 if opcode[0] & 0xF0 == 0x40 else 0
        if 0xB8 <= opcode[at] <= 0xBF or opcode[at] == 0xC7:
            return range(end - 4, end)
    return range(0)
