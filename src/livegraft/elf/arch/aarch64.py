# SPDX-License-Identifier: GPL-2.0-or-later
"""aarch64: relocations, the kernel's tables of code places, and the few instructions that matter.

Sources: ELF for the Arm 64-bit Architecture (IHI 0056), tables of static relocations; Arm
Architecture Reference Manual (DDI 0487), C4.1; arch/arm64/include/asm/{alternative-macros,asm-bug,
asm-extable,jump_label}.h (tables).
"""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture, Instruction, Load, Reference, Table
from livegraft.elf.arch.fixed_width import COMMON_TABLES, decode, signed, without, word
from livegraft.elf.header import Machine

LD_PREL_LO19, ADR_PREL_LO21 = 273, 274
TSTBR14, CONDBR19, JUMP26, CALL26 = 279, 280, 282, 283

_IMM16, _IMM12, _IMM14, _IMM19, _IMM26 = 0x1FFFE0, 0x3FFC00, 0x7FFE0, 0xFFFFE0, 0x3FFFFFF
_ADR = 0x60FFFFE0

FIELDS = {
    **{257: b"\xff" * 8, 258: b"\xff" * 4, 259: b"\xff" * 2},  # ABS64, ABS32, ABS16
    **{260: b"\xff" * 8, 261: b"\xff" * 4, 262: b"\xff" * 2},  # PREL64, PREL32, PREL16
    **dict.fromkeys(range(263, 273), word(_IMM16)),  # MOVW_UABS_*, MOVW_SABS_*
    LD_PREL_LO19: word(_IMM19),
    ADR_PREL_LO21: word(_ADR),
    **{275: word(_ADR), 276: word(_ADR)},  # ADR_PREL_PG_HI21, _NC
    **dict.fromkeys((277, 278, 284, 285, 286, 299), word(_IMM12)),  # ADD and LDST*_ABS_LO12_NC
    TSTBR14: word(_IMM14),
    CONDBR19: word(_IMM19),
    JUMP26: word(_IMM26),
    CALL26: word(_IMM26),
    **dict.fromkeys(range(287, 294), word(_IMM16)),  # MOVW_PREL_*
    309: word(_IMM19),  # GOT_LD_PREL19
    311: word(_ADR),  # ADR_GOT_PAGE
    **{312: word(_IMM12), 313: word(_IMM12)},  # LD64_GOT_LO12_NC, LD64_GOTPAGE_LO15
}

_RETURNS = frozenset({0xD65F03C0, 0xD65F0BFF, 0xD65F0FFF})
"""``ret``, ``retaa``, ``retab``."""


def destination(instruction: Instruction, code: bytes) -> int | None:
    """Where a direct branch goes."""
    found = _branch(instruction)
    return None if found is None else found.place


def _branch(instruction: Instruction) -> Reference | None:
    code, at = instruction.opcode, instruction.offset
    if code & 0x7C000000 == 0x14000000:  # b, bl
        kind = CALL26 if code >> 31 else JUMP26
        return Reference(at, kind, at + 4 * signed(code & _IMM26, 26))
    if code & 0xFF000000 == 0x54000000 or code & 0x7E000000 == 0x34000000:  # b.cond, cbz, cbnz
        return Reference(at, CONDBR19, at + 4 * signed((code & _IMM19) >> 5, 19))
    if code & 0x7E000000 == 0x36000000:  # tbz, tbnz
        return Reference(at, TSTBR14, at + 4 * signed((code & _IMM14) >> 5, 14))
    return None


def reference(instruction: Instruction, code: bytes) -> Reference | None:
    """A branch, ``adr`` or a literal's ``ldr``."""
    opcode, at = instruction.opcode, instruction.offset
    if opcode & 0x9F000000 == 0x10000000:  # adr
        distance = signed((opcode & _IMM19) >> 3 | opcode >> 29 & 3, 21)
        return Reference(at, ADR_PREL_LO21, at + distance)
    if opcode & 0x3B000000 == 0x18000000:  # ldr (literal)
        return Reference(at, LD_PREL_LO19, at + 4 * signed((opcode & _IMM19) >> 5, 19))
    return _branch(instruction)


def is_branch(kind: int, code: bytes, field: int) -> bool:
    """Whether a relocation is that of a direct branch."""
    return kind in (CALL26, JUMP26, CONDBR19, TSTBR14)


def is_jump(instruction: Instruction) -> bool:
    """Whether it is ``b``."""
    return instruction.opcode >> 26 == 0x05


def is_return(instruction: Instruction) -> bool:
    """Whether it is a return."""
    return instruction.opcode in _RETURNS


def loaded_argument(instruction: Instruction, code: bytes) -> Load | None:
    """What a ``movz`` or ``movk`` loads."""
    opcode = instruction.opcode
    if opcode & 0x7F800000 not in (0x52800000, 0x72800000):
        return None
    shift = 16 * (opcode >> 21 & 3)
    is_keep = opcode & 0x7F800000 == 0x72800000
    value = ((opcode & _IMM16) >> 5) << shift
    return Load(opcode & 31, value, without(instruction, _IMM16), is_keep or shift > 0)


AARCH64 = Architecture(
    name="aarch64",
    machine=Machine.AARCH64,
    byte_order="<",
    fields=FIELDS,
    tables={**COMMON_TABLES, ".altinstructions": Table(2, patches=True)},
    decode=decode,
    is_branch=is_branch,
    destination=destination,
    reference=reference,
    is_jump=is_jump,
    is_return=is_return,
    loaded_argument=loaded_argument,
    arguments=tuple(range(8)),  # x0-x7
    labels=("$x", "$d"),  # mapping symbols
    without_meaning=frozenset({0, 256}),  # R_AARCH64_NONE, by both numbers
    has_subsections=True,  # ALTERNATIVE() puts its replacement into subsection 1
    has_anchors=True,
    # -fpatchable-function-entry=4,2 with CONFIG_DYNAMIC_FTRACE_WITH_CALL_OPS
    ftrace_span=16,
)
