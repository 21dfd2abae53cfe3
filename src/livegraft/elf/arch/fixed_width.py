# SPDX-License-Identifier: GPL-2.0-or-later
"""What the architectures share whose instructions are words of 32 bits, little endian."""

from __future__ import annotations

from collections.abc import Iterator

from livegraft.elf.arch.architecture import Instruction, Table, Undecodable

COMMON_TABLES = {
    "__bug_table": Table(2, ignored=range(8, 10)),  # struct bug_entry: line
    "__ex_table": Table(2),
    "__jump_table": Table(3),
    "__mcount_loc": Table(1),
    "__patchable_function_entries": Table(1),
    "_kprobe_blacklist": Table(1),
}
"""include/asm-generic/bug.h (with CONFIG_GENERIC_BUG_RELATIVE_POINTERS), include/linux/jump_label.h
(with CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE), include/asm-generic/{extable,kprobes}.h: all 64-bit
architectures with livepatch keep them alike."""


def decode(code: bytes, start: int, end: int) -> Iterator[Instruction]:
    """Word after word.

    Raises:
        Undecodable: a word is cut off.
    """
    if (end - start) % 4 or end > len(code):
        raise Undecodable(f"instruction at {end - (end - start) % 4:#x} is cut off")
    for at in range(start, end, 4):
        word = int.from_bytes(code[at : at + 4], "little")
        yield Instruction(at, at + 4, 0, word, 0, at, at)


def signed(value: int, bits: int) -> int:
    """A field of that many bits as a signed number."""
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def word(mask: int) -> bytes:
    """The bits of a word that a relocation changes."""
    return mask.to_bytes(4, "little")


def without(instruction: Instruction, mask: int) -> bytes:
    """An instruction's bytes without some bits."""
    return (instruction.opcode & ~mask).to_bytes(4, "little")
