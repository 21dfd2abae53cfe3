# SPDX-License-Identifier: GPL-2.0-or-later
"""loongarch64: relocations, the kernel's tables of code places, and the few instructions that
matter.

Sources: LoongArch ELF psABI (LoongArch-ELF-ABI), table of relocation types: those of ABI 1, which
compute on a stack, and those of ABI 2; LoongArch Reference Manual, volume 1, appendix B;
arch/loongarch/include/asm/{alternative-asm,asm-extable,bug,asm}.h (tables).
"""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture, Instruction, Load, Reference, Table
from livegraft.elf.arch.fixed_width import COMMON_TABLES, decode, signed, without, word
from livegraft.elf.header import Machine

SOP_PUSH_PLT_PCREL = 29
B16, B21, B26, CALL36 = 64, 65, 66, 110
PCREL_32 = 99

_10_12, _10_16, _5_20 = 0x3FFC00, 0x3FFFC00, 0x1FFFFE0
_21, _26 = 0x3FFFC1F, 0x3FFFFFF

FIELDS = {
    **{1: b"\xff" * 4, 2: b"\xff" * 8, PCREL_32: b"\xff" * 4, 109: b"\xff" * 8},  # 32, 64, *_PCREL
    **dict.fromkeys((*range(22, 38), 20, 21), b""),  # SOP_PUSH_*, SOP_*, MARK_*: compute only
    38: word(0x7C00),  # SOP_POP_32_S_10_5
    **dict.fromkeys((39, 40), word(_10_12)),  # SOP_POP_32_U_10_12, _S_10_12
    **dict.fromkeys((41, 42), word(_10_16)),  # SOP_POP_32_S_10_16, _S2
    **{43: word(_5_20), 44: word(_21), 45: word(_26), 46: b"\xff" * 4},  # SOP_POP_32_*
    **{47: b"\xff", 48: b"\xff" * 2, 49: b"\xff" * 3, 50: b"\xff" * 4, 51: b"\xff" * 8},  # ADD*
    **{52: b"\xff", 53: b"\xff" * 2, 54: b"\xff" * 3, 55: b"\xff" * 4, 56: b"\xff" * 8},  # SUB*
    **{105: b"\x3f", 106: b"\x3f"},  # ADD6, SUB6
    **{B16: word(_10_16), B21: word(_21), B26: word(_26)},
    CALL36: word(_5_20) + word(_10_16),  # pcaddu18i, jirl
    **dict.fromkeys((67, 69, 71, 73, 75, 77, 79, 81, 103), word(_5_20)),  # *_HI20, *64_LO20
    **dict.fromkeys((68, 70, 72, 74, 76, 78, 80, 82), word(_10_12)),  # *_LO12, *64_HI12
}

_RETURN = 0x4C000020
"""``jirl $zero, $ra, 0``."""


def _branch(instruction: Instruction) -> Reference | None:
    code, at = instruction.opcode, instruction.offset
    kind, low = code >> 26, code >> 10 & 0xFFFF
    if kind in (0x14, 0x15):  # b, bl
        return Reference(at, B26, at + 4 * signed((code & 0x3FF) << 16 | low, 26))
    if kind in (0x10, 0x11, 0x12):  # beqz, bnez, bceqz
        return Reference(at, B21, at + 4 * signed((code & 0x1F) << 16 | low, 21))
    if 0x16 <= kind <= 0x1B:  # beq, bne, blt, bge, bltu, bgeu
        return Reference(at, B16, at + 4 * signed(low, 16))
    return None


def reference(instruction: Instruction, code: bytes) -> Reference | None:
    """A direct branch, or ``pcaddi``."""
    if instruction.opcode >> 25 == 0x0C:
        distance = 4 * signed((instruction.opcode & _5_20) >> 5, 20)
        return Reference(instruction.offset, 103, instruction.offset + distance)
    return _branch(instruction)


def destination(instruction: Instruction, code: bytes) -> int | None:
    """Where a direct branch goes."""
    found = _branch(instruction)
    return None if found is None else found.place


def is_branch(kind: int, code: bytes, field: int) -> bool:
    """Whether a relocation is that of a direct branch."""
    return kind in (B16, B21, B26, CALL36, SOP_PUSH_PLT_PCREL)


def is_jump(instruction: Instruction) -> bool:
    """Whether it is ``b``."""
    return instruction.opcode >> 26 == 0x14


def is_return(instruction: Instruction) -> bool:
    """Whether it is a return."""
    return instruction.opcode == _RETURN


def loaded_argument(instruction: Instruction, code: bytes) -> Load | None:
    """What ``ori``, ``addi`` from ``$zero``, and ``lu12i.w`` load."""
    opcode = instruction.opcode
    target, source = opcode & 31, opcode >> 5 & 31
    kind, low = opcode >> 22, (opcode & _10_12) >> 10
    if kind == 0x0E:  # ori
        return Load(target, low, without(instruction, _10_12), source != 0)
    if kind in (0x0A, 0x0B) and source == 0:  # addi.w, addi.d
        return Load(target, signed(low, 12), without(instruction, _10_12))
    if opcode >> 25 == 0x0A:  # lu12i.w
        value = signed((opcode & _5_20) >> 5, 20) << 12
        return Load(target, value, without(instruction, _5_20), True)
    return None


LOONGARCH64 = Architecture(
    name="loongarch64",
    machine=Machine.LOONGARCH,
    byte_order="<",
    fields=FIELDS,
    tables={
        **COMMON_TABLES,
        # .long 10001f - 10000b, and of the file's name: both count from the entry.
        "__bug_table": Table(2, ignored=range(8, 10), from_entry=(PCREL_32,)),
        ".altinstructions": Table(2, patches=True),
        ".la_abs": Table(2, patches=True),
    },
    decode=decode,
    is_branch=is_branch,
    destination=destination,
    reference=reference,
    is_jump=is_jump,
    is_return=is_return,
    loaded_argument=loaded_argument,
    arguments=tuple(range(4, 12)),  # a0-a7
    without_meaning=frozenset({0, 100, 102}),  # NONE, RELAX, ALIGN
    snippets=(".altinstr_replacement", ".fixup"),
    may_lack_symbol=True,
    has_anchors=True,
    ftrace_span=16,
    ftrace_calls=frozenset({"_mcount"}),
)
