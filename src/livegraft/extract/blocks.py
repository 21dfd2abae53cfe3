# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether two builds of a function are the same blocks in another order.

Both are walked from their entry in step: each instruction has to be the same and to mean the same,
jumps that only lead on are followed, and a conditional jump may be turned round together with what
follows it. What tables say of places in the function has to be said of the same places. So the
order of blocks, their alignment and the border to the cold part are no difference; anything else,
such as another register, is. x86-64 only.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from livegraft.compare.entity import Entity
from livegraft.compare.noreturn import never_returns
from livegraft.compare.unit import Unit, Use
from livegraft.elf.arch import x86_64 as arch
from livegraft.elf.arch.architecture import Instruction
from livegraft.elf.header import Machine
from livegraft.extract.sides import FIRST, SECOND, Sides

_UD2 = (1, 0x0B)
_NOP = (1, 0x1F)
_BUG_TABLE = "__bug_table"
_BUG_FLAGS_AT = 10
"""``struct bug_entry`` (asm/bug.h): two distances of 4 bytes, u16 line, u16 flags."""
_BUGFLAG_WARNING = 1

_FAR = 64
"""Jumps that lead to jumps."""


class _Place(NamedTuple):
    part: Entity
    offset: int


class _Code:
    """A function of one side with its cold parts."""

    def __init__(self, sides: Sides, side: int, function: Entity) -> None:
        self.unit: Unit = sides.unit(side)
        self.side = side
        self.parts = (function, *function.parts)
        self._instructions = {
            part: {each.offset: each for each in self.unit.instructions(part)}
            for part in self.parts
        }
        self.entry = _Place(function, function.value)
        self._uses: dict[_Place, Use] = {}
        self.entries: dict[_Place, list[Entity]] = defaultdict(list)
        for part in self.parts:
            for use in self.unit.uses(part):
                self._uses[_Place(part, use.offset)] = use
            for entry in part.entries:
                place = _Place(part, part.value + self.unit.place(entry))
                self.entries[place].append(entry)

    def at(self, place: _Place) -> Instruction | None:
        return self._instructions[place.part].get(place.offset)

    def uses(self, place: _Place, instruction: Instruction) -> list[Use]:
        span = range(instruction.offset, instruction.end)
        return [
            self._uses[_Place(place.part, at)]
            for at in span
            if _Place(place.part, at) in self._uses
        ]

    def bytes(self, place: _Place, instruction: Instruction) -> bytes:
        base = place.part.value
        return self.unit.masked(place.part)[instruction.offset - base : instruction.end - base]

    def destination(self, place: _Place, instruction: Instruction) -> _Place | None:
        """Where a direct jump goes within the function; None if it leaves it, or is none."""
        for use in self.uses(place, instruction):
            return self.inside(use, place.part)
        found = arch.destination(instruction, self.unit.section(place.part).data)
        return None if found is None else _Place(place.part, found)

    def inside(self, use: Use, owner: Entity) -> _Place | None:
        """The place in the function that a reference leads to."""
        if isinstance(use.target, str) or use.target not in self.parts:
            return None
        is_code = self.unit.section(owner).is_code
        correction = self.unit.arch.pc_relative.get(use.type, 0) if is_code else 0
        return _Place(use.target, use.target.value + use.delta + correction)

    def settled(self, place: _Place) -> _Place:
        """The place, or where padding and jumps from there lead on to."""
        for _ in range(_FAR):
            found = self.at(place)
            if found is None or place in self.entries:
                return place
            if self._is_padding(place, found):
                place = _Place(place.part, found.end)
                continue
            following = self.destination(place, found) if arch.is_jump(found) else None
            if following is None:
                return place
            place = following
        return place

    def _is_padding(self, place: _Place, instruction: Instruction) -> bool:
        if (instruction.map, instruction.opcode) == _NOP:
            return True
        return self.bytes(place, instruction).lstrip(b"\x66") == b"\x90"

    def ends(self, place: _Place, instruction: Instruction) -> bool:
        """Whether nothing is executed behind an instruction."""
        if (instruction.map, instruction.opcode) == _UD2:
            bugs = [each for each in self.entries.get(place, ()) if each.name == _BUG_TABLE]
            return not any(self._is_warning(each) for each in bugs)
        if arch.is_return(instruction) or arch.is_jump(instruction):
            return True
        if arch.is_call(instruction):
            return any(
                never_returns(self.unit, use.target) for use in self.uses(place, instruction)
            )
        return arch.is_indirect_jump(instruction, self.unit.section(place.part).data)

    def _is_warning(self, entry: Entity) -> bool:
        data = self.unit.masked(entry)
        return len(data) > _BUG_FLAGS_AT and bool(data[_BUG_FLAGS_AT] & _BUGFLAG_WARNING)


def are_same_blocks(sides: Sides, first: Entity, second: Entity) -> bool:
    """Whether two builds of a function differ in the order of their blocks only."""
    if sides.unit(FIRST).arch.machine != Machine.X86_64:
        return False
    return _Walk(sides, _Code(sides, FIRST, first), _Code(sides, SECOND, second)).are_same()


class _Walk:
    def __init__(self, sides: Sides, first: _Code, second: _Code) -> None:
        self._sides = sides
        self._codes = (first, second)
        self._met: set[tuple[_Place, _Place]] = set()
        self._work: list[tuple[_Place, _Place]] = []
        self._told: set[tuple[_Place, _Place]] = set()

    def are_same(self) -> bool:
        self._follow(self._codes[0].entry, self._codes[1].entry)
        self._met |= self._in_front()
        while self._work:
            while self._work:
                if not self._step(*self._work.pop()):
                    return False
            if not all(self._entries(*pair) for pair in sorted(self._met - self._told, key=str)):
                return False
        for code, side in zip(self._codes, (FIRST, SECOND), strict=True):
            if not set(code.entries) <= {pair[side] for pair in self._met}:
                return False  # what is told of a place that is never reached
        return True

    def _in_front(self) -> set[tuple[_Place, _Place]]:
        """The places at the start and in front of it that tables speak of: room for tracers."""
        one, two = (code.parts[0] for code in self._codes)
        distances = {
            place.offset - code.parts[0].value
            for code in self._codes
            for place in code.entries
            if place.part is code.parts[0] and place.offset < code.entry.offset
        }
        return {(_Place(one, one.value + at), _Place(two, two.value + at)) for at in distances}

    def _follow(self, first: _Place, second: _Place) -> None:
        pair = (self._codes[0].settled(first), self._codes[1].settled(second))
        if pair not in self._met:
            self._met.add(pair)
            self._work.append(pair)

    def _step(self, first: _Place, second: _Place) -> bool:
        one, two = self._codes[0].at(first), self._codes[1].at(second)
        if one is None or two is None:
            return False
        if _is_conditional(one) or _is_conditional(two):
            return self._branch(first, one, second, two)
        if not self._is_same(first, one, second, two):
            return False
        ends = self._codes[0].ends(first, one), self._codes[1].ends(second, two)
        if not any(ends):
            self._follow(_Place(first.part, one.end), _Place(second.part, two.end))
        return ends[0] == ends[1]

    def _branch(self, first: _Place, one: Instruction, second: _Place, two: Instruction) -> bool:
        if not (_is_conditional(one) and _is_conditional(two)):
            return False
        taken = self._codes[0].destination(first, one), self._codes[1].destination(second, two)
        nexts = _Place(first.part, one.end), _Place(second.part, two.end)
        turned = (one.opcode ^ two.opcode) & 0xF
        if taken[0] is None or taken[1] is None:
            if turned or taken != (None, None) or not self._uses(first, one, second, two):
                return False
            self._follow(*nexts)
            return True
        if turned == 0:
            self._follow(taken[0], taken[1])
            self._follow(*nexts)
        elif turned == 1:
            self._follow(taken[0], nexts[1])
            self._follow(nexts[0], taken[1])
        return turned in (0, 1)

    def _is_same(self, first: _Place, one: Instruction, second: _Place, two: Instruction) -> bool:
        if arch.is_jump(one) and arch.is_jump(two):  # both leave the function
            return self._uses(first, one, second, two)
        same = self._codes[0].bytes(first, one) == self._codes[1].bytes(second, two)
        return same and self._uses(first, one, second, two)

    def _uses(self, first: _Place, one: Instruction, second: _Place, two: Instruction) -> bool:
        uses = self._codes[0].uses(first, one), self._codes[1].uses(second, two)
        if len(uses[0]) != len(uses[1]):
            return False
        return all(
            (use.offset - one.offset) - (other.offset - two.offset) == 0
            and self._is_same_use(use, first.part, other, second.part)
            for use, other in zip(*uses, strict=True)
        )

    def _is_same_use(self, use: Use, owner: Entity, other: Use, another: Entity) -> bool:
        insides = self._codes[0].inside(use, owner), self._codes[1].inside(other, another)
        if insides[0] is not None and insides[1] is not None:
            self._follow(insides[0], insides[1])
            return True
        return self._sides.is_same_use(use, owner, other, another)

    def _entries(self, first: _Place, second: _Place) -> bool:
        """Whether tables say the same of two places."""
        self._told.add((first, second))
        listed = [
            sorted(code.entries.get(place, ()), key=lambda each: each.name)
            for code, place in zip(self._codes, (first, second), strict=True)
        ]
        if [each.name for each in listed[0]] != [each.name for each in listed[1]]:
            return False
        for entry, other in zip(*listed, strict=True):
            codes = self._sides.entry_code(FIRST, entry), self._sides.entry_code(SECOND, other)
            uses = self._sides.entry_uses(FIRST, entry), self._sides.entry_uses(SECOND, other)
            if codes[0] != codes[1] or len(uses[0]) != len(uses[1]):
                return False
            pairs = zip(*uses, strict=True)
            if not all(self._is_same_use(a, entry, b, other) for a, b in pairs):
                return False
        return True


def _is_conditional(instruction: Instruction) -> bool:
    if instruction.map == 0:
        return 0x70 <= instruction.opcode < 0x80
    return instruction.map == 1 and 0x80 <= instruction.opcode < 0x90
