# SPDX-License-Identifier: GPL-2.0-or-later
"""An object with more sections than a symbol can name, as the assembler makes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.compare_pairs import COMPILER

from livegraft.compare.comparison import compare_objects
from livegraft.elf import object as elf
from livegraft.elf.header import SHN_LORESERVE
from livegraft.elf.object import ElfObject

COUNT = SHN_LORESERVE + 50

FUNCTION = """
.section .text.{0}, "ax"
.type {0}, @function
{0}: mov ${1}, %eax
jmp outside
.size {0}, . - {0}
"""


def assembled(folder: Path, value: int) -> ElfObject:
    """Functions f0, f1..., each in a section, and one more that returns a value."""
    source, output = folder / "many.s", folder / "many.o"
    listed = [FUNCTION.format(f"f{number}", number) for number in range(COUNT)]
    source.write_text("".join([*listed, FUNCTION.format("last", value)]))
    subprocess.run([COMPILER, "-c", "-o", output, source], check=True)
    return elf.read(output)


def test_sections_with_extended_numbers(tmp_path: Path) -> None:
    before, after = assembled(tmp_path, 3), assembled(tmp_path, 4)
    assert len(before.sections) > COUNT
    comparison = compare_objects(before, after)
    assert (comparison.changed, comparison.oddities) == (("last",), ())
