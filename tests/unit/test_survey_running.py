# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of several static variables of one name the oracle takes, and where it finds it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from livegraft.run import run
from livegraft.survey.objectfile import Elf, Relocation
from livegraft.survey.running import Entry, Running, Unit, _meant

BEFORE = """
int take(const int *);
int f(void) { static const int n = 1; return take(&n); }
int g(void) { static const int n = 2; return take(&n) + f(); }
int h(void)
{
	int sum = 0;
	{ static int n; sum += take(&n); }
	{ static int n; sum += take(&n); }
	return sum;
}
int k(void)
{
	int sum = 0;
	{ static const int n = 4; sum += take(&n); }
	{ static const int n = 5; sum -= take(&n); }
	return sum;
}
"""
SWAPPED = BEFORE.replace("= 4;", "= 6;").replace("= 5;", "= 4;").replace("= 6;", "= 5;")
AFTER = f"""
{SWAPPED.replace("return sum;", "return sum + 1;")}
int z(void) {{ static const int n = 3; return take(&n); }}
"""
"""With another ``n`` behind, so that gcc numbers all of them anew."""

START = 0x1000
"""Where the code of the unpatched object is."""

FIRST, OTHERS = 0x100000, 0x900000
"""Where its variables are, in an order of their own; and those of another unit, named alike."""


def compiled(folder: Path, name: str, text: str, *flags: str) -> Elf:
    source, output = folder / f"{name}.c", folder / f"{name}.o"
    source.write_text(text)
    words = ["gcc", "-O2", "-fno-inline", "-fno-pic", "-mcmodel=kernel", *flags]
    run([*words, "-c", source, "-o", output])
    return Elf.read(output.read_bytes())


def uses(elf: Elf, function: str) -> list[tuple[Relocation, str]]:
    """The relocations of a function that mean variables, and which."""
    (own,) = (s for s in elf.symbols if s.name == function)
    found = []
    for each in sorted(elf.relocations, key=lambda each: each.offset):
        symbol, _ = _meant(elf, each)
        inside = each.section == own.section and 0 <= each.offset - own.value < own.size
        if inside and symbol is not None and symbol.kind == 1:
            found.append((each, symbol.name))
    return found


class Machine:
    """The unpatched object as it runs."""

    def __init__(self, plain: Elf) -> None:
        functions = [s for s in plain.symbols if s.kind == 2]
        variables = [s for s in plain.symbols if s.kind == 1]
        text = functions[0].section
        start = plain.places[text]
        self.code = bytearray(plain.data[start : start + plain.sizes[text]])
        self.places = {s.name: FIRST + 0x100 * n for n, s in enumerate(reversed(variables))}
        for each in plain.relocations:
            symbol, rest = _meant(plain, each)
            if each.section == text and symbol is not None and symbol.name in self.places:
                struct.pack_into("<i", self.code, each.offset, self.places[symbol.name] + rest)
        self.running = Running(
            [
                *((s.name, Entry(START + s.value, s.is_global)) for s in functions),
                *((name, Entry(place, False)) for name, place in self.places.items()),
                *((name, Entry(OTHERS, False)) for name in self.places),
            ]
        )

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.code[address - START : address - START + size])


@pytest.fixture
def objects(tmp_path: Path) -> tuple[Elf, Elf]:
    """Before and after a fix."""
    after = compiled(tmp_path, "after", AFTER, "-ffunction-sections", "-fdata-sections")
    return compiled(tmp_path, "before", BEFORE), after


@pytest.mark.parametrize("function", ["f", "g", "h"])
def test_static_locals_of_one_name(objects: tuple[Elf, Elf], function: str) -> None:
    """By who uses them, by what they hold, at last by their order; and not by their number."""
    plain, patched = objects
    machine = Machine(plain)
    unit = Unit(plain, patched, machine.running, Running(()), read=machine.read)
    before, after = uses(plain, function), uses(patched, function)
    assert [name for _, name in before] != [name for _, name in after]
    for (_, name), (relocation, _) in zip(before, after, strict=True):
        assert unit.target(relocation, function) == {machine.places[name]}


def test_what_they_hold_is_more_than_their_order(objects: tuple[Elf, Elf]) -> None:
    plain, patched = objects
    machine = Machine(plain)
    unit = Unit(plain, patched, machine.running, Running(()), read=machine.read)
    (_, four), (_, five) = uses(plain, "k")
    found = [unit.target(relocation, "k") for relocation, _ in uses(patched, "k")]
    assert found == [{machine.places[five]}, {machine.places[four]}]


def test_nobody_knows(objects: tuple[Elf, Elf]) -> None:
    """Without the running code, of names that are there twice; and of a variable that is new."""
    plain, patched = objects
    machine = Machine(plain)
    blind = Unit(plain, patched, machine.running, Running(()))
    assert [blind.target(each, "f") for each, _ in uses(patched, "f")] == [set()]
    seeing = Unit(plain, patched, machine.running, Running(()), read=machine.read)
    assert [seeing.target(each, "z") for each, _ in uses(patched, "z")] == [set()]
