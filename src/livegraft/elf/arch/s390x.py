# SPDX-License-Identifier: GPL-2.0-or-later
"""s390x: relocations, the kernel's tables of code places, and the few instructions that matter.

Sources: s390x ELF Application Binary Interface Supplement, table of relocation types;
z/Architecture Principles of Operation, chapter 5 (instruction formats) and appendix B;
arch/s390/include/asm/{alternative,bug,asm-extable,jump_label,nospec-insn}.h (tables).
"""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.elf.arch.architecture import (
    Architecture,
    Instruction,
    Load,
    Reference,
    Table,
    Undecodable,
)
from livegraft.elf.arch.fixed_width import COMMON_TABLES
from livegraft.elf.header import Machine

PC16DBL, PLT16DBL, PC32DBL, PLT32DBL = 17, 18, 19, 20
PC12DBL, PLT12DBL, PC24DBL, PLT24DBL = 62, 63, 64, 65
GOTPCDBL, GOTENT, GOTPLTENT = 21, 26, 33

FIELDS = {
    **{1: b"\xff", 3: b"\xff" * 2, 4: b"\xff" * 4, 22: b"\xff" * 8},  # 8, 16, 32, 64
    **{16: b"\xff" * 2, 5: b"\xff" * 4, 23: b"\xff" * 8},  # PC16, PC32, PC64
    **dict.fromkeys((2, 6, 29), b"\x0f\xff"),  # 12, GOT12, GOTPLT12
    **dict.fromkeys((57, 58, 59), b"\x0f\xff\xff\x00"),  # 20, GOT20, GOTPLT20
    **dict.fromkeys((15, 27, 30, 34), b"\xff" * 2),  # GOT16, GOTOFF16, GOTPLT16, PLTOFF16
    **dict.fromkeys((7, 8, 13, 14, 31, 35), b"\xff" * 4),  # GOT32, PLT32, GOTOFF32, GOTPC...
    **dict.fromkeys((24, 25, 28, 32, 36), b"\xff" * 8),  # GOT64, PLT64, GOTOFF64, GOTPLT64...
    **dict.fromkeys((PC16DBL, PLT16DBL), b"\xff" * 2),
    **dict.fromkeys((PC32DBL, PLT32DBL, GOTPCDBL, GOTENT, GOTPLTENT), b"\xff" * 4),
    **dict.fromkeys((PC12DBL, PLT12DBL), b"\x0f\xff"),
    **dict.fromkeys((PC24DBL, PLT24DBL), b"\xff" * 3),
}

PC_RELATIVE = {
    **dict.fromkeys((PC16DBL, PLT16DBL, PC32DBL, PLT32DBL, GOTPCDBL, GOTENT, GOTPLTENT), -2),
    **dict.fromkeys((PC12DBL, PLT12DBL), -1),
    **dict.fromkeys((PC24DBL, PLT24DBL), -3),
}
"""Distances count from the instruction, whose field lies that far behind its beginning."""

_RIE_BRANCHES = frozenset({0x44, 0x45, 0x64, 0x65, 0x76, 0x77, 0x7C, 0x7D, 0x7E, 0x7F})
"""Second opcode bytes of brxhg, brxlg, cgrj, clgrj, crj, clrj, cgij, clgij, cij, clij."""


def decode(code: bytes, start: int, end: int) -> Iterator[Instruction]:
    """Instruction after instruction: the first two bits tell the length.

    Raises:
        Undecodable: an instruction is cut off.
    """
    at = start
    while at < end:
        length = (2, 4, 4, 6)[code[at] >> 6] if at < len(code) else 2
        if at + length > min(end, len(code)):
            raise Undecodable(f"instruction at {at:#x} is cut off")
        value = int.from_bytes(code[at : at + length], "big")
        yield Instruction(at, at + length, 0, value, 0, at + 2, at + 2)
        at += length


def _field(instruction: Instruction, code: bytes) -> tuple[bool, int] | None:
    """Whether a PC-relative instruction is a branch, and how many bytes its field has."""
    first, second = code[instruction.offset], code[instruction.offset + 1]
    low = second & 15
    if first == 0xA7 and low in (4, 5, 6, 7):  # brc, bras, brct, brctg
        return True, 2
    if first in (0x84, 0x85):  # brxh, brxle
        return True, 2
    if first == 0xEC and code[instruction.end - 1] in _RIE_BRANCHES:
        return True, 2
    if first == 0xC0 and low in (0, 4, 5):  # larl, brcl, brasl
        return low != 0, 4
    if first == 0xCC and low == 6:  # brcth
        return True, 4
    return (False, 4) if first in (0xC4, 0xC6) else None  # lrl, stgrl..., exrl, crl...


def _reference(instruction: Instruction, code: bytes) -> tuple[bool, Reference] | None:
    found = _field(instruction, code)
    if found is None:
        return None
    is_direct, size = found
    at = instruction.immediate
    distance = int.from_bytes(code[at : at + size], "big", signed=True)
    kind = PC32DBL if size == 4 else PC16DBL
    return is_direct, Reference(at, kind, instruction.offset + 2 * distance)


def reference(instruction: Instruction, code: bytes) -> Reference | None:
    """A branch, ``larl``, or another instruction that counts from itself."""
    found = _reference(instruction, code)
    return None if found is None else found[1]


def destination(instruction: Instruction, code: bytes) -> int | None:
    """Where a direct branch goes."""
    found = _reference(instruction, code)
    return found[1].place if found is not None and found[0] else None


def is_branch(kind: int, code: bytes, field: int) -> bool:
    """Whether a relocation is that of a direct branch."""
    if kind in (PLT16DBL, PLT32DBL, PLT12DBL, PLT24DBL, PC12DBL, PC24DBL, PC16DBL):
        return True
    return (
        kind == PC32DBL
        and field >= 2
        and code[field - 2] in (0xC0, 0xCC)
        and (code[field - 1] & 15 in (4, 5, 6))
    )


def is_jump(instruction: Instruction) -> bool:
    """Whether it is ``j`` or ``jg``: a branch under any condition."""
    size = instruction.end - instruction.offset
    return instruction.opcode >> (8 * size - 16) in (0xA7F4, 0xC0F4)


def is_return(instruction: Instruction) -> bool:
    """Whether it is ``br``: a branch to a register."""
    return instruction.end - instruction.offset == 2 and instruction.opcode >> 4 == 0x07F


_ARGUMENTS = (2, 3, 4, 5, 6)
_STACK_AREA = 160
"""Where further arguments lie from r15 on, eight bytes each (s390x ELF ABI, 1.2.4)."""


def loaded_argument(instruction: Instruction, code: bytes) -> Load | None:
    """What ``l(g)hi``, ``llill``, ``lgfi``, ``llilf``, ``iilf`` and ``mv(g)hi`` load."""
    raw = code[instruction.offset : instruction.end]
    kind = raw[0] << 4 | raw[1] & 15
    register = raw[1] >> 4
    if kind in (0xA78, 0xA79, 0xA5F):
        value = int.from_bytes(raw[2:], "big", signed=kind != 0xA5F)
        return Load(register, value, raw[:2])
    if kind in (0xC01, 0xC0F, 0xC09):
        return Load(register, int.from_bytes(raw[2:], "big", signed=kind == 0xC01), raw[:2])
    offset = int.from_bytes(raw[2:4], "big") & 0xFFF
    if raw[:2] in (b"\xe5\x48", b"\xe5\x4c") and raw[2] >> 4 == 15 and offset >= _STACK_AREA:
        value = int.from_bytes(raw[4:], "big", signed=True)
        place = len(_ARGUMENTS) + 1 + (offset - _STACK_AREA) // 8
        return Load(-1, value, raw[:4], argument=place)
    return None


S390X = Architecture(
    name="s390x",
    machine=Machine.S390,
    byte_order=">",
    fields=FIELDS,
    tables={**COMMON_TABLES, ".altinstructions": Table(2, patches=True)},
    decode=decode,
    is_branch=is_branch,
    destination=destination,
    reference=reference,
    is_jump=is_jump,
    is_return=is_return,
    loaded_argument=loaded_argument,
    arguments=_ARGUMENTS,
    pc_relative=PC_RELATIVE,
    same_meaning={PLT16DBL: PC16DBL, PLT32DBL: PC32DBL, PLT12DBL: PC12DBL, PLT24DBL: PC24DBL},
    without_meaning=frozenset({0}),
    table_prefixes={".s390_": Table(1, patches=True)},  # .s390_return_mem, .s390_indirect_jump...
    snippets=(".altinstr_replacement", ".fixup"),
    has_anchors=True,
    ftrace_span=0,
)
