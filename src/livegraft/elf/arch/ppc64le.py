# SPDX-License-Identifier: GPL-2.0-or-later
"""ppc64le: relocations, the kernel's tables of code places, and the few instructions that matter.

Sources: 64-Bit ELF V2 ABI Specification, Power Architecture, 3.5 (relocation types) and 3.4.1
(local entry points); Power ISA, book I; arch/powerpc/include/asm/feature-fixups.h (tables).
"""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture, Instruction, Load, Reference, Table
from livegraft.elf.arch.fixed_width import COMMON_TABLES, decode, signed, without, word
from livegraft.elf.header import Machine

REL24, REL14, REL64, REL24_NOTOC = 10, 11, 44, 116

_HALF, _HALF_DS = b"\xff\xff", b"\xfc\xff"
_PREFIXED_34 = word(0x3FFFF) + word(0xFFFF)

FIELDS = {
    **{1: b"\xff" * 4, 26: b"\xff" * 4},  # ADDR32, REL32
    **{38: b"\xff" * 8, REL64: b"\xff" * 8},  # ADDR64, REL64
    **dict.fromkeys((3, 4, 5, 6, 39, 40, 41, 42), _HALF),  # ADDR16, _LO, _HI, _HA, _HIGHER...
    **dict.fromkeys((56, 57), _HALF_DS),  # ADDR16_DS, ADDR16_LO_DS
    **dict.fromkeys((47, 48, 49, 50), _HALF),  # TOC16, _LO, _HI, _HA
    **dict.fromkeys((63, 64), _HALF_DS),  # TOC16_DS, TOC16_LO_DS
    51: b"\xff" * 8,  # TOC
    **dict.fromkeys((249, 250, 251, 252), _HALF),  # REL16, _LO, _HI, _HA
    **dict.fromkeys((REL24, REL24_NOTOC), word(0x03FFFFFC)),
    **dict.fromkeys((REL14, 12, 13), word(0xFFFC)),  # REL14, _BRTAKEN, _BRNTAKEN
    **dict.fromkeys((132, 133), _PREFIXED_34),  # PCREL34, GOT_PCREL34
}

_FEATURES = Table(4, at=16, from_entry=(REL64,), ends=(1, 3), patches=True)
"""``struct fixup_entry``: mask, value, start and end of the code, start and end of the other."""

_PLACE = Table(1, patches=True)

TABLES = {
    **COMMON_TABLES,
    **dict.fromkeys(("__ftr_fixup", "__mmu_ftr_fixup", "__fw_ftr_fixup"), _FEATURES),
    **dict.fromkeys(("__lwsync_fixup", "__barrier_nospec_fixup"), _PLACE),
    **dict.fromkeys(("__stf_entry_barrier_fixup", "__stf_exit_barrier_fixup"), _PLACE),
    **dict.fromkeys(("__uaccess_flush_fixup", "__entry_flush_fixup"), _PLACE),
    **dict.fromkeys(("__scv_entry_flush_fixup", "__rfi_flush_fixup"), _PLACE),
    "__btb_flush_fixup": _PLACE,
}

_BLR = 0x4E800020


def _branch(instruction: Instruction) -> Reference | None:
    code, at = instruction.opcode, instruction.offset
    if code & 2:  # an absolute address
        return None
    if code >> 26 == 18:  # b, bl
        return Reference(at, REL24, at + signed(code & 0x03FFFFFC, 26))
    if code >> 26 == 16:  # bc, bcl
        return Reference(at, REL14, at + signed(code & 0xFFFC, 16))
    return None


def reference(instruction: Instruction, code: bytes) -> Reference | None:
    """A direct branch; nothing else counts from its own place without a relocation."""
    return _branch(instruction)


def destination(instruction: Instruction, code: bytes) -> int | None:
    """Where a direct branch goes."""
    found = _branch(instruction)
    return None if found is None else found.place


def is_branch(kind: int, code: bytes, field: int) -> bool:
    """Whether a relocation is that of a direct branch."""
    return kind in (REL24, REL24_NOTOC, REL14, 12, 13)


def is_jump(instruction: Instruction) -> bool:
    """Whether it is ``b``."""
    return instruction.opcode >> 26 == 18 and not instruction.opcode & 1


def is_return(instruction: Instruction) -> bool:
    """Whether it is ``blr``."""
    return instruction.opcode == _BLR


def loaded_argument(instruction: Instruction, code: bytes) -> Load | None:
    """What ``li``, ``lis``, and an ``ori`` behind it load."""
    opcode = instruction.opcode
    first, second, low = opcode >> 21 & 31, opcode >> 16 & 31, opcode & 0xFFFF
    rest = without(instruction, 0xFFFF)
    if opcode >> 26 == 14 and second == 0:
        return Load(first, signed(low, 16), rest)
    if opcode >> 26 == 15 and second == 0:
        return Load(first, signed(low, 16) << 16, rest, True)
    if opcode >> 26 == 24 and first == second:
        return Load(first, low, rest, True)
    return None


PPC64LE = Architecture(
    name="ppc64le",
    machine=Machine.PPC64,
    byte_order="<",
    fields=FIELDS,
    tables=TABLES,
    decode=decode,
    is_branch=is_branch,
    destination=destination,
    reference=reference,
    is_jump=is_jump,
    is_return=is_return,
    loaded_argument=loaded_argument,
    arguments=tuple(range(3, 11)),  # r3-r10
    without_meaning=frozenset({0, 109, 118}),  # NONE, TOCSAVE, ENTRY
    snippets=(".fixup", "__ftr_alt_"),
    constants={".toc": 8},
    has_anchors=True,
    local_entry=0xE0,
    ftrace_span=32,  # behind the global entry point and the saved link register
    ftrace_calls=frozenset({"_mcount"}),
)
