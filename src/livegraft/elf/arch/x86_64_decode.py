# SPDX-License-Identifier: GPL-2.0-or-later
"""Where x86-64 instructions begin and end, and where their parts lie.

Comparing needs no more than that: the distance from a PC-relative field to the end of its
instruction, direct branches, and immediate operands. Source: Intel 64 and IA-32 Architectures
Software Developer's Manual, volume 2, chapter 2 and appendix A (opcode maps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from livegraft.elf.arch.architecture import Instruction, Undecodable

_BYTE, _WORD, _FULL, _VALUE, _ENTER, _OFFSET, _NEAR = range(1, 8)
"""Kinds of immediates: 8 bits; 16 bits; 16 or 32 by operand size; 16, 32 or 64; 16 + 8 bits; an
absolute address; a 32-bit branch distance."""


def _flags(*places: int | range) -> bytearray:
    table = bytearray(256)
    for place in places:
        for opcode in [place] if isinstance(place, int) else place:
            table[opcode] = 1
    return table


def _kinds(kinds: dict[int, Iterable[int]]) -> bytearray:
    table = bytearray(256)
    for kind, opcodes in kinds.items():
        for opcode in opcodes:
            table[opcode] = kind
    return table


_ROWS = range(0, 0x40, 8)
_PREFIXES = _flags(0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)
_INVALID = _flags(
    *(row + 6 for row in _ROWS if row not in (0x20, 0x28, 0x30, 0x38)),
    *(row + 7 for row in _ROWS if row != 0x08),
    *(0x60, 0x61, 0x82, 0x9A, 0xCE, 0xD4, 0xD5, 0xD6, 0xEA),
)
_MODRM = _flags(
    *(range(row, row + 4) for row in _ROWS),
    *(0x63, 0x69, 0x6B, range(0x80, 0x90), 0xC0, 0xC1, 0xC6, 0xC7),
    *(range(0xD0, 0xD4), range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF),
)
_IMMEDIATE = _kinds(
    {
        _BYTE: [
            *(row + 4 for row in _ROWS),
            *(0x6A, 0x6B, 0x80, 0x83, 0xA8, 0xC0, 0xC1, 0xC6, 0xCD, 0xEB, 0xE4, 0xE5, 0xE6, 0xE7),
            0xF6,
            *range(0x70, 0x80),
            *range(0xB0, 0xB8),
            *range(0xE0, 0xE4),
        ],
        _FULL: [*(row + 5 for row in _ROWS), 0x68, 0x69, 0x81, 0xA9, 0xC7, 0xF7],
        _VALUE: range(0xB8, 0xC0),
        _WORD: [0xC2, 0xCA],
        _ENTER: [0xC8],
        _OFFSET: range(0xA0, 0xA4),
        _NEAR: [0xE8, 0xE9],
    }
)
WITHOUT_IMMEDIATE = bytearray(
    bool(_MODRM[opcode] and not _IMMEDIATE[opcode] and opcode not in (0xF6, 0xF7))
    for opcode in range(256)
)
"""One-byte opcodes with a ModRM byte that nothing but its operand follows."""

_PLAIN_0F = _flags(
    *(0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA),
    *(range(0x30, 0x38), range(0x80, 0x90), range(0xC8, 0xD0)),
)
"""Two-byte opcodes without a ModRM byte; all others have one."""

_BYTE_0F = _flags(0x0F, range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6)
_CONTROL_REGISTERS = range(0x20, 0x24)
"""``mov`` from and to control and debug registers: the ModRM byte's mode is ignored."""


def _immediate_size(kind: int, narrow: bool, wide: bool, short_address: bool) -> int:
    if kind in (0, _BYTE, _WORD):
        return kind
    if kind == _NEAR:
        return 4
    if kind == _ENTER:
        return 3
    if kind == _OFFSET:
        return 4 if short_address else 8
    if kind == _VALUE and wide:
        return 8
    return 2 if narrow and not wide else 4


_IS_PLAIN = bytearray(
    not (_PREFIXES[byte] or _INVALID[byte] or 0x40 <= byte < 0x50)
    and byte not in (0x0F, 0x62, 0x8F, 0xC4, 0xC5, 0xF6, 0xF7)
    for byte in range(256)
)
"""One-byte opcodes that mean the same whatever follows."""

_SIZE, _SIZE_WIDE = (
    bytearray(_immediate_size(kind, False, wide, False) for kind in _IMMEDIATE)
    for wide in (False, True)
)
"""Bytes of a one-byte opcode's immediate, without and with REX.W."""

_MODRM_AND_SIB = bytearray(1 + (byte < 0xC0 and byte & 7 == 4) for byte in range(256))
"""Bytes up to the displacement, by the ModRM byte."""

_DISPLACEMENT = bytearray((4 if byte & 7 == 5 else 0, 1, 4, 0)[byte >> 6] for byte in range(256))
"""Bytes of the displacement, by the ModRM byte; a SIB byte may ask for four more."""

_MADE: Callable[[type[Instruction], tuple[int, ...]], Instruction] = tuple.__new__


def decode(code: bytes, start: int = 0, end: int | None = None) -> Iterator[Instruction]:
    """Decode instruction after instruction.

    Args:
        code: bytes that hold the code.
        start: where the first instruction begins.
        end: where to stop; the last instruction has to end there.

    Raises:
        Undecodable: something is no instruction, or reaches beyond the end.
    """
    stop = len(code) if end is None else end
    limit = min(stop, len(code))
    first = start
    try:
        while first < stop:
            at = first
            byte = code[at]
            size = _SIZE
            if byte & 0xF0 == 0x40:
                if byte & 8:
                    size = _SIZE_WIDE
                at += 1
                byte = code[at]
            if _IS_PLAIN[byte]:  # most are: here, without a call for each
                at += 1
                modrm, displacement = 0, at
                if _MODRM[byte]:
                    modrm = at
                    operand = code[at]
                    displacement = at + _MODRM_AND_SIB[operand]
                    at = displacement + _DISPLACEMENT[operand]
                    if operand < 0x40 and operand & 7 == 4 and code[modrm + 1] & 7 == 5:
                        at += 4
                behind = at + size[byte]
                found = _MADE(Instruction, (first, behind, 0, byte, modrm, displacement, at))
            else:
                found = _decode_one(code, first)
                behind = found.end
            if behind > limit:
                raise IndexError
            yield found
            first = behind
    except IndexError:
        raise Undecodable(f"instruction at {first:#x} is cut off") from None


def _decode_one(code: bytes, start: int) -> Instruction:
    at = start
    narrow = wide = short_address = False
    while _PREFIXES[code[at]]:
        narrow |= code[at] == 0x66
        short_address |= code[at] == 0x67
        at += 1
    byte = code[at]
    if byte & 0xF0 == 0x40:
        wide = bool(byte & 8)
        at += 1
        byte = code[at]
    if byte in (0xC4, 0xC5, 0x62):
        return _decode_vector(code, start, at)
    at += 1
    if byte != 0x0F:
        if _INVALID[byte] or (byte == 0x8F and code[at] & 0x38):
            raise Undecodable(f"no instruction at {start:#x}")
        is_not_test = byte in (0xF6, 0xF7) and code[at] & 0x30  # members 2 to 7 of the group
        kind = 0 if is_not_test else _IMMEDIATE[byte]
        size = _immediate_size(kind, narrow, wide, short_address)
        return _finish(code, start, at, 0, byte, bool(_MODRM[byte]), size)
    return _decode_two_byte(code, start, at)


def _decode_two_byte(code: bytes, start: int, at: int) -> Instruction:
    opcode = code[at]
    at += 1
    if opcode == 0x38:
        return _finish(code, start, at + 1, 2, code[at], True, 0)
    if opcode == 0x3A:
        return _finish(code, start, at + 1, 3, code[at], True, 1)
    if 0x80 <= opcode < 0x90:
        return _finish(code, start, at, 1, opcode, False, 4)
    if opcode in _CONTROL_REGISTERS:
        return Instruction(start, at + 1, 1, opcode, at, at + 1, at + 1)
    return _finish(code, start, at, 1, opcode, not _PLAIN_0F[opcode], _BYTE_0F[opcode])


def _decode_vector(code: bytes, start: int, at: int) -> Instruction:
    """VEX and EVEX: the map is in the prefix, the rest is as without."""
    if code[at] == 0xC5:
        opcode_map, at = 1, at + 2
    elif code[at] == 0xC4:
        opcode_map, at = code[at + 1] & 0x1F, at + 3
    else:
        opcode_map, at = code[at + 1] & 0x07, at + 4
    opcode = code[at]
    if opcode_map not in (1, 2, 3, 5, 6):
        raise Undecodable(f"no instruction at {start:#x}")
    if opcode_map == 1 and opcode == 0x77:
        return _finish(code, start, at + 1, 1, opcode, False, 0)
    size = 1 if opcode_map == 3 or (opcode_map == 1 and _BYTE_0F[opcode]) else 0
    return _finish(code, start, at + 1, opcode_map, opcode, True, size)


def _finish(
    code: bytes, start: int, at: int, opcode_map: int, opcode: int, has_modrm: bool, size: int
) -> Instruction:
    modrm = 0
    if has_modrm:
        modrm = at
        byte = code[at]
        mode, register = byte >> 6, byte & 7
        at += 1
        displacement = at
        if mode != 3:
            base = register
            if register == 4:
                base = code[at] & 7
                at += 1
                displacement = at
            if mode == 1:
                at += 1
            elif mode == 2 or (mode == 0 and base == 5):
                at += 4
    else:
        displacement = at
    end = at + size
    if end > len(code):
        raise IndexError
    return Instruction(start, end, opcode_map, opcode, modrm, displacement, at)
