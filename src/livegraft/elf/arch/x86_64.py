# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64: relocations, the kernel's tables of code places, and the few instructions that matter.

Sources: System V ABI, AMD64 supplement, table 4.9 (relocation types); arch/x86/kernel/module.c
(those that the kernel's module loader applies); arch/x86/include/asm/{bug,jump_label,alternative,
extable,paravirt_types}.h and include/linux/objtool.h (tables).
"""

from __future__ import annotations

from dataclasses import dataclass

R_64 = 1
R_PC32 = 2
R_PLT32 = 4
R_32 = 10
R_32S = 11
R_PC8 = 15
R_PC64 = 24

RELOCATION_SIZES = {R_64: 8, R_PC32: 4, R_PLT32: 4, R_32: 4, R_32S: 4, R_PC64: 8}
"""Relocation types that the kernel's module loader knows, and the bytes that each changes."""

PC_RELATIVE = frozenset({R_PC32, R_PLT32, R_PC8, R_PC64})

SAME_MEANING = {R_PLT32: R_PC32}
"""Types that the assembler chooses between by the symbol's binding only."""

NEAR_BRANCH_LENGTH = 4
"""From the field of a near branch (and of most memory operands) to the end of its instruction."""

NOPS = {2: b"\x66\x90", 5: b"\x0f\x1f\x44\x00\x00"}
"""``x86_nops`` of arch/x86/kernel/alternative.c, as objtool writes them over jump label sites."""

FTRACE_SPAN = 16
"""How far from its symbol a function's ftrace site may lie: behind ENDBR, or at the beginning of
the padding in front (``-fpatchable-function-entry=16,16``)."""


@dataclass(frozen=True, slots=True)
class Table:
    """A section of entries, each of which speaks of a place in a function.

    Args:
        relocations: how many each entry has; the first one names the place. The entry's size
            follows from their distances.
        ignored: bytes of an entry that are no difference (a line number).
        patches: whether the kernel rewrites the place while it loads a module, before livepatch
            relocations to modules are applied.
    """

    relocations: int
    ignored: range = range(0)
    patches: bool = False


TABLES = {
    "__bug_table": Table(2, ignored=range(8, 10)),  # struct bug_entry: line
    "__ex_table": Table(2),
    "__jump_table": Table(3),
    ".altinstructions": Table(2, patches=True),
    ".parainstructions": Table(1, patches=True),
    ".smp_locks": Table(1),
    "__mcount_loc": Table(1),
    "__patchable_function_entries": Table(1),
    ".ibt_endbr_seal": Table(1),
    "_kprobe_blacklist": Table(1),
}

DISCARDED = ".discard."
"""What objtool reads and the linker drops: one relocation per entry, whatever the suffix."""

NO_ENTRIES = (".discard.addressable", ".discard.sym_func_")
"""Discarded sections that speak of symbols only and keep them alive; a payload needs none."""

FTRACE_TABLES = ("__mcount_loc", "__patchable_function_entries")
JUMP_TABLE = "__jump_table"
ALTERNATIVES = ".altinstructions"

SNIPPETS = (".altinstr_replacement", ".altinstr_aux")
"""Code without symbols that functions and tables refer to in parts. ``_static_cpu_has()`` jumps
to ``.altinstr_aux`` and from there back."""

REPLACED_LENGTH_AT = {12: 10, 13: 10, 14: 12}
"""Size of ``struct alt_instr`` -> offset of ``instrlen``: 12 bytes in 6.1, 13 before 5.18, 14 from
6.3 on (u32 flags)."""

PARAVIRT_LENGTH_AT = 9
"""``struct paravirt_patch_site``: instr (8), type (1), len (1)."""

KEY_NEEDS_NOP = 2
"""Bit of a jump table entry's key: the site holds a jump that objtool is to overwrite
(CONFIG_HAVE_JUMP_LABEL_HACK)."""


def table_of(section: str) -> Table | None:
    """The table that a section is, or None."""
    if section.startswith(DISCARDED) and not section.startswith(NO_ENTRIES):
        return Table(1)
    return TABLES.get(section)


def is_branch(code: bytes, field: int) -> bool:
    """Whether a 32-bit PC-relative field is that of a direct call or jump.

    In a memory operand the byte in front is a ModRM byte with mode 0 and register 5 (05, 0d ...
    3d), which no opcode of a near branch equals.

    Args:
        code: the bytes of the code.
        field: offset of the field.
    """
    if field >= 1 and code[field - 1] in (0xE8, 0xE9):
        return True
    return field >= 2 and code[field - 2] == 0x0F and code[field - 1] & 0xF0 == 0x80


def jump_label_nop(code: bytes, site: int) -> bytes:
    """The no-operation to put over a jump label site that holds a jump; empty if it holds none."""
    return NOPS[{0xEB: 2, 0xE9: 5}[code[site]]] if code[site] in (0xEB, 0xE9) else b""
