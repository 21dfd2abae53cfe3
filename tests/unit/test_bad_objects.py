# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that no compiler writes: the answer is a verdict or a typed error, and it comes soon."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.fuzz.objects import CORPUS, check

from livegraft.cli.main import main
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.lines import _line_conversions
from livegraft.elf import object as elf
from livegraft.elf.header import SHN_LORESERVE, SectionFlag, SectionType
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType, relocations
from livegraft.elf.writer import write
from livegraft.errors import ElfError, Exit
from livegraft.verdict.judge import judge

SEEDS = sorted(path.name for path in CORPUS.iterdir())
SEED = "x86_64-jump-label"
BIG_ENDIAN = "s390x-alternative-changed"

CODE = int(SectionFlag.ALLOC | SectionFlag.EXECINSTR)
DATA = int(SectionFlag.ALLOC | SectionFlag.WRITE)
CONSTANTS = int(SectionFlag.ALLOC | SectionFlag.MERGE)
R_64 = 1

NAME, TYPE, FLAGS, OFFSET, SIZE, LINK, INFO, ALIGNMENT, ENTRY = 0, 4, 8, 24, 32, 40, 44, 48, 56
"""Offsets in ``Elf64_Shdr``."""

FIELDS = {TYPE: 4, FLAGS: 8, OFFSET: 8, SIZE: 8, LINK: 4, INFO: 4, ALIGNMENT: 8, ENTRY: 8, NAME: 4}


class File:
    """An object's bytes, to be damaged."""

    def __init__(self, name: str = SEED) -> None:
        self.data = bytearray((CORPUS / name).read_bytes())
        self.order = "<" if self.data[5] == 1 else ">"
        (self.table,) = struct.unpack_from(self.order + "Q", self.data, 40)
        (self.count,) = struct.unpack_from(self.order + "H", self.data, 60)

    def get(self, section: int, field: int) -> int:
        """A field of a section header."""
        code = self.order + {4: "I", 8: "Q"}[FIELDS[field]]
        (value,) = struct.unpack_from(code, self.data, self.table + 64 * section + field)
        return int(value)

    def set(self, section: int, field: int, value: int) -> None:
        """Change a field of a section header."""
        size = FIELDS[field]
        raw = (value & ((1 << 8 * size) - 1)).to_bytes(
            size, "little" if self.order == "<" else "big"
        )
        at = self.table + 64 * section + field
        self.data[at : at + size] = raw

    def of_type(self, kind: int) -> int:
        """The first section of a type."""
        return next(n for n in range(self.count) if self.get(n, TYPE) == kind)

    def borders(self) -> Iterator[int]:
        """Where sections and the section headers begin and end."""
        for section in range(self.count):
            if self.get(section, TYPE) not in (SectionType.NULL, SectionType.NOBITS):
                start = self.get(section, OFFSET)
                yield from (start, start + self.get(section, SIZE))
            yield self.table + 64 * section


def compared(obj: ElfObject) -> Comparison:
    """An object, written, read and compared with itself."""
    return judge(compare_objects(elf.parse(write(obj)), elf.parse(write(obj))))


@pytest.mark.parametrize("name", SEEDS)
def test_the_corpus_of_the_fuzzer(name: str) -> None:
    check((CORPUS / name).read_bytes())


@pytest.mark.parametrize("name", [SEED, BIG_ENDIAN])
def test_truncated_at_every_border(name: str) -> None:
    file = File(name)
    borders = {max(at + step, 0) for at in file.borders() for step in (-1, 0, 1)}
    cut = sorted(at for at in borders if at < len(file.data))
    assert len(cut) > 50
    for at in cut:
        with pytest.raises(ElfError):
            elf.parse(bytes(file.data[:at]))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", [SEED, BIG_ENDIAN])
def test_absurd_fields_of_section_headers(name: str, field: int) -> None:
    for section in range(File(name).count):
        for value in (0, 3, 1 << 31, 1 << 40, (1 << 64) - 1):
            file = File(name)
            file.set(section, field, value)
            check(bytes(file.data))


def test_overlapping_sections() -> None:
    file = File()
    text, strings = file.of_type(SectionType.PROGBITS), file.of_type(SectionType.STRTAB)
    file.set(strings, OFFSET, file.get(text, OFFSET))
    if not file.get(text, SIZE):
        file.set(text, SIZE, 8)
    with pytest.raises(ElfError, match="overlaps"):
        elf.parse(bytes(file.data))


@pytest.mark.parametrize("name", SEEDS)
def test_the_wrong_byte_order(name: str) -> None:
    data = bytearray((CORPUS / name).read_bytes())
    data[5] ^= 3
    with pytest.raises(ElfError):
        elf.parse(bytes(data))


def test_a_foreign_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = File()
    struct.pack_into("<H", file.data, 18, 40)
    path = tmp_path / "arm.o"
    path.write_bytes(file.data)
    assert main(["compare", str(path), str(path)]) == Exit.FAILED
    said = " ".join(capsys.readouterr().err.split())
    assert "is for machine 40, which livegraft does not know" in said


def test_no_symbol_table() -> None:
    file = File()
    file.set(file.of_type(SectionType.SYMTAB), TYPE, SectionType.PROGBITS)
    with pytest.raises(ElfError, match="0 symbol tables"):
        elf.parse(bytes(file.data))


def test_an_unterminated_string_table() -> None:
    file = File()
    table = file.get(file.of_type(SectionType.SYMTAB), LINK)
    start, size = file.get(table, OFFSET), file.get(table, SIZE)
    file.data[start : start + size] = b"x" * size
    with pytest.raises(ElfError, match="string table"):
        elf.parse(bytes(file.data))


def test_a_name_of_a_section_that_is_not_kept() -> None:
    """Nobody needs the names of relocation sections, but a file with a wrong one is damaged."""
    file = File()
    file.set(file.of_type(SectionType.RELA), NAME, 1 << 30)
    with pytest.raises(ElfError, match="no string at offset"):
        elf.parse(bytes(file.data))


@pytest.mark.parametrize("value", [0, 1, None, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [SectionType.RELA, SectionType.SYMTAB])
def test_links_to_nowhere_and_to_itself(kind: SectionType, value: int | None) -> None:
    file = File()
    section = file.of_type(kind)
    file.set(section, LINK, section if value is None else value)
    with pytest.raises(ElfError):
        elf.parse(bytes(file.data))
    file = File()
    relocated = file.of_type(SectionType.RELA)
    file.set(relocated, INFO, relocated if value is None else value)
    if value != 1:
        with pytest.raises(ElfError, match="which is none"):
            elf.parse(bytes(file.data))


def an_object(*sections: Section, names: tuple[str, ...] = ("f",)) -> ElfObject:
    """An object with a function or variable in each section."""
    obj = ElfObject()
    for name, section in zip(names, sections, strict=False):
        number = obj.add_section(section)
        kind = SymbolType.FUNC if section.is_code else SymbolType.OBJECT
        obj.add_symbol(Symbol(name, number, 0, section.size, type=kind))
    return obj


def text() -> Section:
    """A function that does nothing."""
    return Section(".text.f", flags=CODE, data=b"\x90" * 15 + b"\xc3", alignment=16)


ALIGNMENTS = [(0, True), (1, True), (3, False), (1 << 40, False)]


@pytest.mark.parametrize(("alignment", "is_valid"), ALIGNMENTS)
def test_alignment(alignment: int, is_valid: bool) -> None:
    file = File()
    file.set(file.of_type(SectionType.PROGBITS), ALIGNMENT, alignment)
    if is_valid:
        check(bytes(file.data))
        elf.parse(bytes(file.data))
    else:
        with pytest.raises(ElfError, match="alignment"):
            elf.parse(bytes(file.data))


@pytest.mark.parametrize(("value", "size"), [(17, 0), (1 << 62, 0), ((1 << 64) - 1, 1)])
def test_a_symbol_beyond_its_section(value: int, size: int) -> None:
    obj = an_object(text())
    obj.add_symbol(Symbol("g", 1, value, size, type=SymbolType.FUNC))
    with pytest.raises(ElfError, match="'g' lies beyond"):
        compared(obj)


def test_a_symbol_that_reaches_beyond_its_section() -> None:
    obj = an_object(text())
    obj.symbols[1].size = (1 << 64) - 1
    assert {reason.rule for reason in compared(obj).reasons} == {"relocation-out-of-range"}


def test_a_relocation_beyond_its_section() -> None:
    obj = an_object(text())
    obj.sections[1].relocations = relocations([(16, R_64, 1, 0)])
    with pytest.raises(ElfError, match="outside of its section"):
        compared(obj)
    obj.sections[1].relocations = relocations([(9, R_64, 1, 0)])  # its last byte does not exist
    assert {reason.rule for reason in compared(obj).reasons} == {"relocation-out-of-range"}


def test_a_section_that_claims_to_be_large() -> None:
    obj = an_object(Section(".bss.x", SectionType.NOBITS, DATA, b"", 1 << 40))
    with pytest.raises(ElfError, match="claims to have"):
        compared(obj)


def test_a_reference_far_away() -> None:
    for addend in (-(1 << 63), (1 << 63) - 1, 1 << 45):
        obj = an_object(text(), Section(".data.x", flags=DATA, data=bytes(8)), names=("f", "x"))
        obj.sections[2].relocations = relocations([(0, R_64, 1, addend)])
        assert compared(obj).verdict == "unchanged"


def test_a_section_group_of_nothing() -> None:
    obj = an_object(text())
    obj.add_section(Section(".group", SectionType.GROUP, data=bytes(6), info=1))
    with pytest.raises(ElfError, match="no words"):
        compared(obj)
    obj.sections[2] = Section(".group", SectionType.GROUP, data=bytes(8), info=99)
    with pytest.raises(ElfError, match="signature"):
        compared(obj)


def with_sections(count: int) -> ElfObject:
    """An object with so many functions, in as many sections; each refers to the next one."""
    obj = ElfObject()
    for number in range(count):
        section = Section(f".text.f{number}", flags=CODE, data=b"\xe9" + bytes(4), alignment=1)
        if len(obj.sections) == SHN_LORESERVE:
            obj.sections += [Section("", SectionType.NULL, alignment=0)] * 256
        place = obj.add_section(section)
        obj.add_symbol(Symbol(f"f{number}", place, 0, 5, Binding.GLOBAL, SymbolType.FUNC))
        following = (number + 1) % count + 1
        section.relocations = relocations([(1, 4, following, -4)])
    return obj


def test_more_sections_than_a_symbol_can_name() -> None:
    obj = with_sections(SHN_LORESERVE + 300)
    again = elf.parse(write(obj))
    places = [symbol.section for symbol in again.symbols]
    assert places == [each.section for each in obj.symbols]
    assert set(places).isdisjoint(range(SHN_LORESERVE, 1 << 16))
    assert len(again.sections[-1].relocations) == 1


def test_a_symbol_that_needs_the_table_of_wide_numbers() -> None:
    file = File()
    table = file.of_type(SectionType.SYMTAB)
    struct.pack_into("<H", file.data, file.get(table, OFFSET) + 24 + 6, 0xFFFF)
    with pytest.raises(ElfError, match="extended section indices"):
        elf.parse(bytes(file.data))


# -- what is small in a file and must not be large, or take long, in memory ----------------------


def test_many_names_that_share_their_ends() -> None:
    obj = an_object(text())
    data = write(obj)
    long = elf.parse(data)
    long.symbols[1].name = "x" * (1 << 20)
    for number in range(1 << 13):
        long.add_symbol(Symbol(f"{'x' * 3}{number}", 1, type=SymbolType.OBJECT))
    file = bytearray(write(long))
    view = File()
    view.data, view.order = file, "<"
    (view.table,) = struct.unpack_from("<Q", file, 40)
    (view.count,) = struct.unpack_from("<H", file, 60)
    table = view.of_type(SectionType.SYMTAB)
    symbols = np.frombuffer(file, "<u4", offset=view.get(table, OFFSET)).copy()
    for number in range(2, 1 << 13):
        struct.pack_into("<I", file, view.get(table, OFFSET) + 24 * number, number)
    assert len(symbols)
    with pytest.raises(ElfError, match="has a name of"):
        elf.parse(bytes(file))


NAMES = ["f" + ".part.1" * 60 + "x", "f.²", "f.cold.²", "__initcall__" + "_1" * 400]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_names_that_take_long(name: str) -> None:
    variable = Section(".data.x", flags=DATA, data=bytes(8))
    compared(an_object(text(), variable, names=(name, f"{name}.1")))


@pytest.mark.timeout(60)
def test_a_chain_of_constants() -> None:
    obj = an_object(text())
    for number in range(2000):
        section = Section(f".rodata.c{number}", flags=int(SectionFlag.ALLOC), data=bytes(8))
        place = obj.add_section(section)
        symbol = obj.add_symbol(Symbol("", place, type=SymbolType.SECTION))
        user = obj.sections[place - 1]
        user.relocations = relocations([(0, R_64, symbol, 0)])
    with pytest.raises(ElfError, match="chain"):
        compared(obj)


@pytest.mark.timeout(60)
def test_a_chain_of_cold_parts() -> None:
    names = ["f" + ".cold" * depth for depth in range(1500)]
    listed = [Section(f".text.{depth}", flags=CODE, data=b"\xc3") for depth in range(1500)]
    before = an_object(*listed, names=tuple(names))
    after = elf.parse(write(before))
    after.sections[1].data = b"\x90"
    comparison = compare_objects(before, after)
    assert comparison.changed == ("f",)
    assert len(comparison.inclusion.functions) == 1500


@pytest.mark.timeout(60)
def test_many_static_locals_of_one_name() -> None:
    def statics(count: int) -> ElfObject:
        data = Section(".bss.x", SectionType.NOBITS, DATA, b"", 4 * count)
        obj = an_object(text(), data, names=("f", "count.0"))
        for number in range(count):
            obj.add_symbol(Symbol(f"count.{number + 1}", 2, 4 * number, 4, type=SymbolType.OBJECT))
        return obj

    judge(compare_objects(statics(20_000), statics(20_003)))


@pytest.mark.timeout(60)
def test_many_names_of_one_place() -> None:
    obj = an_object(text())
    for number in range(20_000):
        obj.add_symbol(Symbol(f"g{number}", 1, 0, 16, type=SymbolType.FUNC))
    assert compared(obj).verdict == "unchanged"


@pytest.mark.timeout(60)
def test_many_small_constants() -> None:
    obj = an_object(text())
    obj.add_section(Section(".rodata.cst1", flags=CONSTANTS, data=bytes(1 << 21), entry_size=1))
    with pytest.raises(ElfError, match="parts"):
        compared(obj)


@pytest.mark.timeout(60)
def test_a_format_of_many_digits() -> None:
    for text in (b"%" + b"0" * (1 << 20), b"%*.*" * (1 << 18), b"%d" * 9):
        assert list(_line_conversions(text)) == []
