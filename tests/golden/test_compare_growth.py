# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing takes time in proportion to the size of the objects (``make bench`` says how much)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import pytest

from livegraft.compare.comparison import Verdict, compare_objects
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_32S, R_64, R_PC32, R_PLT32
from livegraft.elf.header import SectionFlag
from livegraft.elf.object import (
    Binding,
    ElfObject,
    Section,
    Symbol,
    SymbolType,
    relocations,
    sort_symbols,
)
from livegraft.elf.writer import write
from livegraft.verdict.judge import judge

CODE = SectionFlag.ALLOC | SectionFlag.EXECINSTR
STRINGS = SectionFlag.ALLOC | SectionFlag.MERGE | SectionFlag.STRINGS
CALLS = 6
"""Calls of each function, and as many strings."""

Relocation = tuple[int, int, int, int]


def made(functions: int, *, changed: int | None = None) -> bytes:
    """An object with so many functions, each with calls, strings, a WARN() and an ftrace site.

    Args:
        changed: the function that has another instruction.
    """
    obj = ElfObject()
    text = "".join(f"string {number}\0" for number in range(functions * CALLS)).encode()
    obj.sections += [
        Section(".rodata.str1.1", flags=STRINGS, data=text, entry_size=1),
        Section("__bug_table", flags=SectionFlag.ALLOC, data=bytes(12 * functions)),
        Section("__mcount_loc", flags=SectionFlag.ALLOC, data=bytes(8 * functions)),
    ]
    obj.symbols += [Symbol("", n, type=SymbolType.SECTION) for n in range(1, 4)]
    outside = obj.add_symbol(Symbol("outside", 0, binding=Binding.GLOBAL))
    places = _string_places(text)
    bugs: list[Relocation] = []
    sites: list[Relocation] = []
    for number in range(functions):
        code = b"\xe8\0\0\0\0" + b"\x48\xc7\xc7\0\0\0\0\xe8\0\0\0\0" * CALLS + b"\x0f\x0b\xc3"
        if number == changed:
            code = code[:-1] + b"\x90\xc3"
        section = Section(f".text.f{number}", flags=CODE, data=code, alignment=16)
        section.relocations = relocations(
            [(1, R_PLT32, outside, -4)]
            + [(5 + 12 * n + 3, R_32S, 1, next(places)) for n in range(CALLS)]
            + [(5 + 12 * n + 8, R_PLT32, outside, -4) for n in range(CALLS)]
        )
        index = obj.add_section(section)
        symbol = obj.add_symbol(
            Symbol(f"f{number}", index, 0, len(code), Binding.GLOBAL, SymbolType.FUNC)
        )
        bugs += [(12 * number, R_PC32, symbol, 65), (12 * number + 4, R_PC32, 1, 0)]
        sites.append((8 * number, R_64, symbol, 0))
    obj.sections[2].relocations = relocations(bugs)
    obj.sections[3].relocations = relocations(sites)
    sort_symbols(obj)
    return write(obj)


def _string_places(text: bytes) -> Iterator[int]:
    place = 0
    while place < len(text):
        yield place
        place = text.index(b"\0", place) + 1


def seconds(task: Callable[[], object]) -> float:
    """CPU seconds of a task, the best of three."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(3):
            began = time.process_time()
            task()
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best


def compare(before: bytes, after: bytes, verdict: Verdict) -> None:
    found = judge(compare_objects(elf.parse(before), elf.parse(after)))
    assert found.verdict is verdict, found.reasons


@pytest.fixture(scope="module")
def small() -> tuple[bytes, bytes]:
    """Two objects of 1 MB."""
    return made(1400), made(1400, changed=7)


def test_time_grows_as_the_object_does(small: tuple[bytes, bytes]) -> None:
    large = made(7000), made(7000, changed=7)
    assert len(large[0]) > 4.8 * len(small[0]) > 4.8e6
    short = seconds(lambda: compare(*small, Verdict.CHANGED))
    assert seconds(lambda: compare(*large, Verdict.CHANGED)) < 8 * short


def test_only_the_function_that_differs_is_decoded(
    small: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from livegraft.compare.unit import Unit

    decoded = []
    plain = Unit.instructions

    def counted(unit: Unit, entity: object) -> object:
        decoded.append(entity)
        return plain(unit, entity)  # type: ignore[arg-type]

    monkeypatch.setattr(Unit, "instructions", counted)
    compare(*small, Verdict.CHANGED)
    assert len(decoded) <= 1


def test_many_small_pairs() -> None:
    """Half of this is the target on an idle machine."""
    pair = made(12), made(12, changed=3)

    def all_of_them() -> None:
        for _ in range(120):
            compare(*pair, Verdict.CHANGED)

    assert seconds(all_of_them) < 3
