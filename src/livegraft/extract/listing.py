# SPDX-License-Identifier: GPL-2.0-or-later
"""The code of two builds of a function, side by side, with the names of what it refers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import capstone

from livegraft.compare.entity import Entity
from livegraft.elf.header import Machine
from livegraft.errors import ElfError
from livegraft.extract.sides import FIRST, SECOND, Sides

CONTEXT = 2
"""Equal lines around a difference."""

_WIDTH = 52


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a listing.

    Args:
        first: the instruction of the one build; empty if it has none here.
        second: that of the other.
    """

    first: str
    second: str

    @property
    def differs(self) -> bool:
        """Whether both sides are not the same."""
        return self.first != self.second


def listing(sides: Sides, first: Entity, second: Entity) -> tuple[Line, ...]:
    """Disassemble a function of both builds.

    Returns:
        the instructions that differ with those around them; an empty line stands for the rest.

    Raises:
        ElfError: the objects are not for x86-64.
    """
    texts = (_instructions(sides, FIRST, first), _instructions(sides, SECOND, second))
    matcher = SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    lines: list[Line] = []
    for group in matcher.get_grouped_opcodes(CONTEXT):
        if lines:
            lines.append(Line("", ""))
        for _, a, b, c, d in group:
            left, right = texts[0][a:b], texts[1][c:d]
            count = max(len(left), len(right))
            lines += map(Line, _filled(left, count), _filled(right, count))
    return tuple(lines)


def side_by_side(lines: Sequence[Line], most: int) -> Iterator[str]:
    """The lines as text, `most` of them at most."""
    for line in lines[:most]:
        mark = "|" if line.differs else " "
        yield f"{_short(line.first):{_WIDTH}} {mark} {_short(line.second)}".rstrip()
    if len(lines) > most:
        yield f"... {len(lines) - most} more lines"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _filled(lines: Sequence[str], count: int) -> list[str]:
    return [*lines, *[""] * (count - len(lines))]


def _instructions(sides: Sides, side: int, function: Entity) -> list[str]:
    """The instructions; where a jump goes is told by the distance, for code in front may differ."""
    unit = sides.unit(side)
    if unit.arch.machine != Machine.X86_64:
        raise ElfError(function.name, f"is for {unit.arch.name}; x86-64 alone is disassembled")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    found = []
    for part in (function, *function.parts):
        uses = {use.offset - part.value: use for use in unit.uses(part)}
        for address, size, name, operands in decoder.disasm_lite(unit.masked(part), 0):
            called = [
                sides.text(sides.meaning(side, uses[at], part), side)
                for at in range(address, address + size)
                if at in uses
            ]
            is_jump = name.startswith("j")
            if called and (is_jump or name == "call"):
                words = [name, *called]
            elif is_jump and operands.startswith("0x"):
                words = [name, f".{int(operands, 16) - address:+d}"]
            else:
                words = [name, operands, *called]
            found.append(" ".join(filter(None, words)))
    return found
