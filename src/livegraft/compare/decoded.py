# SPDX-License-Identifier: GPL-2.0-or-later
"""What was decoded of the code of two units, which have mostly the same: each code once."""

from __future__ import annotations

from livegraft.elf.arch.architecture import Architecture, Instruction, Reference

_Code = tuple[int, bytes]
"""The offset of code in its section, and its bytes."""


class Decoded:
    """Instructions and references by the code that they are of."""

    def __init__(self) -> None:
        self._instructions: dict[_Code, list[Instruction]] = {}
        self._references: dict[_Code, list[Reference]] = {}

    def instructions(
        self, arch: Architecture, data: bytes, start: int, end: int
    ) -> list[Instruction]:
        """The instructions of a part of a section.

        Args:
            arch: the code's.
            data: the section's bytes.
            start: where the part begins.
            end: where it ends.

        Raises:
            Undecodable: something in it is no instruction.
        """
        code = (start, data[start:end])
        known = self._instructions.get(code)
        if known is None:
            known = self._instructions[code] = list(arch.decode(data, start, end))
        return known

    def references(
        self, arch: Architecture, data: bytes, start: int, end: int, listed: list[Instruction]
    ) -> list[Reference]:
        """The references of a part of a section that lead out of it and have no relocations.

        Args:
            listed: its instructions.
        """
        code = (start, data[start:end])
        known = self._references.get(code)
        if known is None:
            found = (arch.reference(each, data) for each in listed)
            inside = range(start, end)
            known = [each for each in found if each is not None and each.place not in inside]
            self._references[code] = known
        return known
