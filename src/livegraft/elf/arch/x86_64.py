# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64: relocations, the kernel's tables of code places, and the few instructions that matter.

Sources: System V ABI, AMD64 supplement, table 4.9 (relocation types); arch/x86/kernel/module.c
(those that the kernel's module loader applies); arch/x86/include/asm/{bug,jump_label,alternative,
extable,paravirt_types}.h and include/linux/objtool.h (tables).
"""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture, Instruction, Load, Reference, Table
from livegraft.elf.arch.x86_64_decode import WITHOUT_IMMEDIATE, decode
from livegraft.elf.header import Machine

R_64 = 1
R_PC32 = 2
R_PLT32 = 4
R_32 = 10
R_32S = 11
R_PC8 = 15
R_PC64 = 24

RELOCATION_SIZES = {R_64: 8, R_PC32: 4, R_PLT32: 4, R_32: 4, R_32S: 4, R_PC64: 8}
"""Relocation types that the kernel's module loader knows, and the bytes that each changes."""

PC_RELATIVE = {R_PC32: 4, R_PLT32: 4, R_PC8: 1, R_PC64: 4}
"""Types that count from the end of the instruction, and how far that usually is."""

SAME_MEANING = {R_PLT32: R_PC32}
"""Types that the assembler chooses between by the symbol's binding only."""

ENDBR64 = bytes.fromhex("f30f1efa")
"""Where an indirect branch may land (Intel SDM, volume 1, 17.3)."""

LONGEST_IMMEDIATE = 4
"""What may lie between a PC-relative memory operand and the end of its instruction, in bytes."""


TABLES = {
    "__bug_table": Table(2, ignored=range(8, 10)),  # struct bug_entry: line
    "__ex_table": Table(2),
    "__jump_table": Table(3),
    ".altinstructions": Table(2, patches=True),
    ".parainstructions": Table(1, length=10, patches=True),  # behind its len: padding
    ".smp_locks": Table(1),
    "__mcount_loc": Table(1),
    "__patchable_function_entries": Table(1),
    ".ibt_endbr_seal": Table(1),
    "_kprobe_blacklist": Table(1),
}

TABLE_PREFIXES = {".discard.": Table(1)}
"""What objtool reads and the linker drops: one relocation per entry, whatever the suffix."""

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

KEY_AT = 8
"""Where ``struct jump_entry`` (s32 code, s32 target, long key) has its key."""

KEY_FLAGS = 3
"""Bits of a jump table entry's key: whether the branch is the likely one, and whether the site
holds a jump that objtool is to overwrite (CONFIG_HAVE_JUMP_LABEL_HACK)."""

STATIC_KEY_SIZE = 16
"""``struct static_key``: atomic_t enabled, and a union of pointers."""


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


def is_last(code: bytes, field: int) -> bool:
    """Whether an instruction surely ends with its PC-relative memory operand.

    In front of the field is the ModRM byte and in front of that the opcode, which has no immediate
    if it is one of a single byte. In front of that a part of a longer opcode or of a vector prefix
    would have to be: where one may be, nothing is sure.

    Args:
        code: the bytes of the code.
        field: offset of the field.
    """
    if field < 6 or code[field - 1] & 0xC7 != 0x05 or not WITHOUT_IMMEDIATE[code[field - 2]]:
        return False
    return code[field - 3] not in (0x0F, 0x38, 0x3A) and not (
        code[field - 4] == 0xC5 or code[field - 5] in (0xC4, 0x8F) or code[field - 6] == 0x62
    )


def _is_branch(kind: int, code: bytes, field: int) -> bool:
    return kind in (R_PLT32, R_PC8) or (kind == R_PC32 and is_branch(code, field))


_IS_DIRECT = (
    bytes(
        0x70 <= opcode < 0x80 or 0xE0 <= opcode < 0xE4 or opcode in (0xE8, 0xE9, 0xEB)
        for opcode in range(256)
    ),
    bytes(0x80 <= opcode < 0x90 for opcode in range(256)),
)
"""Whether an opcode is a jump's or call's with a distance: those of one byte, those behind 0f."""


def destination(instruction: Instruction, code: bytes) -> int | None:
    """Where a direct jump or call goes, without relocations; None for the rest."""
    _, end, number, opcode, _, _, immediate = instruction
    if number > 1 or not _IS_DIRECT[number][opcode]:
        return None
    return end + int.from_bytes(code[immediate:end], "little", signed=True)


def reference(instruction: Instruction, code: bytes) -> Reference | None:
    """A direct jump or call as a reference."""
    place = destination(instruction, code)
    if place is None:
        return None
    kind = R_PC32 if instruction.end - instruction.immediate == 4 else R_PC8
    return Reference(instruction.immediate, kind, place)


def is_call(instruction: Instruction) -> bool:
    """Whether it is a direct call."""
    return instruction.map == 0 and instruction.opcode == 0xE8


def is_jump(instruction: Instruction) -> bool:
    """Whether it is a direct, unconditional jump."""
    return instruction.map == 0 and instruction.opcode in (0xE9, 0xEB)


def is_return(instruction: Instruction) -> bool:
    """Whether it is a near return."""
    return instruction.map == 0 and instruction.opcode in (0xC2, 0xC3)


ARGUMENTS = (7, 6, 2, 1, 8, 9)
"""Registers of the first six integer arguments: rdi, rsi, rdx, rcx, r8, r9 (AMD64 supplement,
3.2.3)."""


def loaded_argument(instruction: Instruction, code: bytes) -> Load | None:
    """What a ``mov $imm32, register`` or ``push $imm`` loads, else None.

    The kernel's compilers push arguments; what is moved to the stack is a variable.
    """
    if instruction.map or instruction.immediate == instruction.end:
        return None
    opcode = instruction.opcode
    at = instruction.modrm or instruction.displacement
    rex = code[at - 2] if at - 2 >= instruction.offset else 0
    high = 8 if rex & 0xF1 == 0x41 else 0
    value = int.from_bytes(code[instruction.immediate : instruction.end], "little")
    rest = code[instruction.offset : instruction.immediate]
    if 0xB8 <= opcode <= 0xBF:
        return Load(opcode & 7 | high, value, rest)
    if opcode in (0x68, 0x6A):
        return Load(-1, value, rest)
    if opcode == 0xC7:
        modrm = code[instruction.modrm]
        if modrm >> 6 == 3:
            return Load(modrm & 7 | high, value, rest)
    return None


def is_push(instruction: Instruction, code: bytes) -> bool:
    """Whether it pushes one value on the stack (``50+r``, ``68``, ``6a``, ``ff /6``)."""
    if instruction.map:
        return False
    opcode = instruction.opcode
    is_group = opcode == 0xFF and (code[instruction.modrm] >> 3) & 7 == 6
    return 0x50 <= opcode <= 0x57 or opcode in (0x68, 0x6A) or is_group


def is_indirect_jump(instruction: Instruction, code: bytes) -> bool:
    """Whether it is a jump through a register or memory (``ff /4``)."""
    is_group = instruction.map == 0 and instruction.opcode == 0xFF
    return is_group and (code[instruction.modrm] >> 3) & 7 in (4, 5)


X86_64 = Architecture(
    name="x86-64",
    machine=Machine.X86_64,
    byte_order="<",
    fields={kind: bytes([255]) * size for kind, size in [*RELOCATION_SIZES.items(), (R_PC8, 1)]},
    tables=TABLES,
    decode=decode,
    is_branch=_is_branch,
    destination=destination,
    reference=reference,
    is_jump=is_jump,
    is_return=is_return,
    loaded_argument=loaded_argument,
    arguments=ARGUMENTS,
    pc_relative=PC_RELATIVE,
    same_meaning=SAME_MEANING,
    unindexed=frozenset(PC_RELATIVE),  # no index is added to an address relative to rip
    longest_immediate=LONGEST_IMMEDIATE,
    is_last=is_last,
    table_prefixes=TABLE_PREFIXES,
    snippets=SNIPPETS,
    # __patchable_function_entries tells of the padding in front (CONFIG_CALL_PADDING), which is in
    # front of functions that are not traced as well.
    ftrace_tables=("__mcount_loc",),
    ftrace_span=16,  # behind ENDBR
    ftrace_calls=frozenset({"__fentry__"}),
    is_push=is_push,
)
