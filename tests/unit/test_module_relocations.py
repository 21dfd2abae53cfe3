# SPDX-License-Identifier: GPL-2.0-or-later
"""Livepatch relocations in objects made by hand: where they go, and which are refused."""

from __future__ import annotations

import pytest

from livegraft.changeset import VMLINUX, Reference, Target
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.elf.arch.x86_64 import R_64, R_PC32, R_PLT32
from livegraft.elf.header import SHN_LIVEPATCH, SectionFlag, SectionType
from livegraft.elf.object import (
    Binding,
    ElfObject,
    Section,
    Symbol,
    SymbolType,
    relocations,
)
from livegraft.errors import ModuleError
from livegraft.module.klp import livepatch_relocations
from livegraft.module.livepatch_relocations import alternative_sites, write_relocations
from livegraft.module.trim import drop_unloaded_sections

CODE = SectionFlag.ALLOC | SectionFlag.EXECINSTR
DATA = SectionFlag.ALLOC

REFERENCES = {
    "in_kernel": Reference("in_kernel", VMLINUX, Target(VMLINUX, "static_one", 2)),
    "in_module": Reference("in_module", "ext4", Target("ext4", "ext4_static.part.0", 1)),
    "in_other": Reference("in_other", "ext4", Target("jbd2", "jbd2_static", 1)),
}
TEXT, KERNEL, MODULE, OTHER, EXPORT = 1, 2, 3, 4, 5


def an_object(*sections: Section) -> ElfObject:
    """Code with one call of each symbol, and further sections."""
    text = Section(".text.f", flags=CODE, data=b"\xe8\0\0\0\0" * 4, alignment=16)
    text.relocations = relocations(
        (5 * n + 1, R_PLT32, symbol, -4) for n, symbol in enumerate((KERNEL, MODULE, OTHER, EXPORT))
    )
    obj = ElfObject()
    obj.sections += [text, *sections]
    obj.symbols += [
        Symbol("", 1, type=SymbolType.SECTION),
        *(Symbol(name, 0, binding=Binding.GLOBAL) for name in (*REFERENCES, "printk")),
    ]
    return obj


def test_relocations_go_where_the_core_looks_for_them() -> None:
    obj = an_object()
    assert write_relocations(obj, REFERENCES) == dict.fromkeys(REFERENCES, 1)
    again = elf.parse(writer.write(obj))
    assert [(symbol.name, symbol.section, symbol.binding) for symbol in again.symbols[2:]] == [
        (".klp.sym.vmlinux.static_one,2", SHN_LIVEPATCH, Binding.GLOBAL),
        (".klp.sym.ext4.ext4_static.part.0,1", SHN_LIVEPATCH, Binding.GLOBAL),
        (".klp.sym.jbd2.jbd2_static,1", SHN_LIVEPATCH, Binding.GLOBAL),
        ("printk", 0, Binding.GLOBAL),
    ]
    text, kernel, module = again.sections[1:]
    assert text.relocations["symbol"].tolist() == [EXPORT]
    assert (kernel.name, module.name) == (".klp.rela.vmlinux.text.f", ".klp.rela.ext4.text.f")
    for section in (kernel, module):
        assert section.type == SectionType.RELA
        assert section.flags == 0x2 | 0x40 | 0x00100000
        assert section.info == 1
    assert kernel.relocations["offset"].tolist() == [1]
    assert module.relocations["offset"].tolist() == [6, 11]
    assert [
        (each.owner, each.target.name, each.count) for each in livepatch_relocations(again)
    ] == [
        ("ext4", "ext4_static.part.0", 1),
        ("ext4", "jbd2_static", 1),
        (VMLINUX, "static_one", 1),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "__jump_table",
        ".altinstr_replacement",
        ".static_call_sites",
        "__bug_table",
        ".textual",
        "other",
    ],
)
def test_a_table_cannot_wait_for_a_module(name: str) -> None:
    table = Section(name, flags=DATA, data=bytes(16))
    table.relocations = relocations([(0, R_PC32, MODULE, 0)])
    with pytest.raises(ModuleError, match=f"{name}: refers to ext4_static.part.0 in ext4"):
        write_relocations(an_object(table), REFERENCES)


def test_a_replacement_cannot_lie_in_a_module() -> None:
    table = Section(".altinstructions", flags=DATA, data=bytes(12))
    table.relocations = relocations([(0, R_PC32, TEXT, 15), (4, R_PC32, MODULE, 0)])
    with pytest.raises(ModuleError, match="altinstructions: refers to ext4_static"):
        write_relocations(an_object(table), REFERENCES)


def test_a_table_may_refer_to_the_kernel() -> None:
    table = Section("__jump_table", flags=DATA, data=bytes(16))
    table.relocations = relocations([(8, R_64, KERNEL, 0)])
    obj = an_object(table)
    assert write_relocations(obj, REFERENCES)["in_kernel"] == 2
    assert ".klp.rela.vmlinux.__jump_table" in {section.name for section in obj.sections}


@pytest.mark.parametrize("name", [".data", ".data.x", ".rodata.x", ".data..read_mostly"])
def test_data_may_wait_for_a_module(name: str) -> None:
    data = Section(name, flags=DATA, data=bytes(8))
    data.relocations = relocations([(0, R_64, MODULE, 0)])
    assert write_relocations(an_object(data), REFERENCES)["in_module"] == 2


def test_a_place_that_is_not_zero_is_refused() -> None:
    obj = an_object()
    obj.sections[1].data = b"\xe8\1\0\0\0" * 4
    with pytest.raises(ModuleError, match="not zero"):
        write_relocations(obj, REFERENCES)


def test_an_unknown_type_is_refused() -> None:
    obj = an_object()
    obj.sections[1].relocations["type"] = 9  # R_X86_64_GOTPCREL
    with pytest.raises(ModuleError, match="type 9"):
        write_relocations(obj, REFERENCES)


def test_a_reference_that_is_missing_or_defined_is_refused() -> None:
    extra = REFERENCES | {"lost": Reference("lost", VMLINUX, Target(VMLINUX, "lost", 1))}
    with pytest.raises(ModuleError, match="lost: is not in the linked module"):
        write_relocations(an_object(), extra)
    obj = an_object()
    obj.symbols[KERNEL].section = 1
    with pytest.raises(ModuleError, match="is defined"):
        write_relocations(obj, REFERENCES)


@pytest.mark.parametrize(("size", "length_at"), [(12, 10), (14, 12)])
def test_an_alternative_over_a_modules_symbol_is_refused(size: int, length_at: int) -> None:
    """The second call is replaced when the module is loaded, and would be written to later."""

    def with_alternative(place: int) -> ElfObject:
        entry = bytearray(size)
        entry[length_at] = 5
        table = Section(".altinstructions", flags=DATA, data=bytes(entry))
        table.relocations = relocations([(0, R_PC32, TEXT, place), (4, R_PC32, TEXT, 0)])
        return an_object(table)

    assert alternative_sites(with_alternative(5), 1) == [(5, 10)]
    with pytest.raises(ModuleError, match="alternative stands where ext4_static"):
        write_relocations(with_alternative(5), REFERENCES)
    # Over the call of an export, and of the kernel's symbol, it does no harm.
    write_relocations(with_alternative(15), REFERENCES)
    write_relocations(with_alternative(0), REFERENCES)


def test_an_alternative_of_unknown_size_is_refused() -> None:
    table = Section(".altinstructions", flags=DATA, data=bytes(20))
    table.relocations = relocations([(0, R_PC32, TEXT, 0), (4, R_PC32, TEXT, 0)])
    with pytest.raises(ModuleError, match="unknown size"):
        write_relocations(an_object(table), REFERENCES)


def test_calls_of_a_module_are_no_call_sites() -> None:
    """Their place is where ``callthunks_patch_module_calls()`` would read an unwritten call."""
    table = Section(".call_sites", flags=DATA, data=bytes(16))
    table.relocations = relocations((4 * n, R_PC32, TEXT, 5 * n) for n in range(4))
    obj = an_object(table)
    write_relocations(obj, REFERENCES)
    assert (table.size, len(table.data)) == (8, 8)
    assert table.relocations["offset"].tolist() == [0, 4]
    assert table.relocations["addend"].tolist() == [0, 15]


def test_a_table_without_calls_of_a_module_stays_as_it_is() -> None:
    table = Section(".call_sites", flags=DATA, data=bytes(4))
    table.relocations = relocations([(0, R_PC32, TEXT, 15)])
    write_relocations(an_object(table), REFERENCES)
    assert table.relocations["addend"].tolist() == [15]


# -- what the module applies itself ----------------------------------------------------------------


def owners(obj: ElfObject, by_kernel: tuple[str, ...] = ()) -> dict[str, list[int]]:
    """The places of each section of livepatch relocations."""
    write_relocations(obj, REFERENCES, by_kernel)
    return {
        section.name: section.relocations["offset"].tolist()
        for section in obj.sections
        if section.name.startswith(".klp.rela.")
    }


def test_relocations_to_the_kernel_are_left_to_the_module() -> None:
    found = owners(an_object())
    assert found == {".klp.rela.livegraft.text.f": [1], ".klp.rela.ext4.text.f": [6, 11]}


def test_what_the_module_needs_for_that_is_left_to_the_kernel() -> None:
    assert owners(an_object(), ("in_kernel",))[".klp.rela.vmlinux.text.f"] == [1]


@pytest.mark.parametrize("table", ["__jump_table", "__bug_table", ".init.text"])
def test_what_is_read_before_init_is_left_to_the_kernel(table: str) -> None:
    section = Section(table, flags=DATA, data=bytes(8))
    section.relocations = relocations([(0, R_PC32, KERNEL, 0)])
    assert f".klp.rela.vmlinux.{table.removeprefix('.')}" in owners(an_object(section))


@pytest.mark.parametrize(("place", "who"), [(0, "vmlinux"), (5, "livegraft")])
def test_static_calls_are_left_to_the_kernel(place: int, who: str) -> None:
    """``static_call_add_module()`` has written there by then."""
    table = Section(".static_call_sites", flags=DATA, data=bytes(8))
    table.relocations = relocations([(0, R_PC32, TEXT, place), (4, R_PC32, EXPORT, 0)])
    assert owners(an_object(table))[f".klp.rela.{who}.text.f"] == [1]


@pytest.mark.parametrize(("place", "who"), [(0, "vmlinux"), (15, "livegraft")])
def test_alternatives_are_left_to_the_kernel(place: int, who: str) -> None:
    entry = bytearray(12)
    entry[10] = 5
    table = Section(".altinstructions", flags=DATA, data=bytes(entry))
    table.relocations = relocations([(0, R_PC32, TEXT, place), (4, R_PC32, TEXT, 0)])
    assert owners(an_object(table))[f".klp.rela.{who}.text.f"] == [1]


def test_both_count_as_the_kernels() -> None:
    obj = an_object()
    write_relocations(obj, REFERENCES, ())
    assert livepatch_relocations(obj)[-1].owner == VMLINUX


# -- what is read back ----------------------------------------------------------------------------


def finished() -> ElfObject:
    obj = an_object()
    write_relocations(obj, REFERENCES)
    return obj


def test_reading_refuses_what_the_core_would() -> None:
    def check(problem: str, obj: ElfObject) -> None:
        with pytest.raises(ModuleError, match=problem):
            livepatch_relocations(obj)

    obj = finished()
    obj.sections[2].flags &= ~SectionFlag.RELA_LIVEPATCH
    check("as the core expects", obj)
    obj = finished()
    obj.sections[3].name = ".klp.rela.ext4.text.g"
    check("as the core expects", obj)
    obj = finished()
    obj.sections[2].relocations["symbol"] = EXPORT
    check("no livepatch symbol", obj)
    obj = finished()
    obj.sections[3].relocations["symbol"] = KERNEL
    check("refers to static_one of vmlinux", obj)
    obj = finished()
    obj.sections[3].relocations = obj.sections[3].relocations[:1]
    check("without use", obj)
    for name in (".klp.sym.vmlinux.static_one", ".klp.sym.vmlinux.static_one,0", "static_one"):
        obj = finished()
        obj.symbols[KERNEL].name = name
        check("is not the name of a livepatch symbol", obj)
    obj = finished()
    obj.sections[1].relocations["symbol"] = KERNEL
    check("ordinary way", obj)


# -- leaving sections out -------------------------------------------------------------------------


def with_comment() -> ElfObject:
    obj = an_object(Section(".data.x", flags=DATA, data=bytes(8)))
    obj.sections.insert(1, Section(".comment", data=b"GCC\0"))
    for symbol in obj.symbols:
        symbol.section += symbol.in_section
    obj.symbols[1:1] = [Symbol("a.c", 0xFFF1, type=SymbolType.FILE), Symbol("", 1, type=3)]
    for section in obj.sections:
        section.relocations["symbol"] += 2
    obj.sections[3].relocations = relocations([(0, R_64, 3, 0)])
    return obj


def test_what_is_not_loaded_is_left_out() -> None:
    obj = with_comment()
    drop_unloaded_sections(obj)
    again = elf.parse(writer.write(obj))
    assert [section.name for section in again.sections] == ["", ".text.f", ".data.x"]
    assert [symbol.section for symbol in again.symbols] == [0, 1, 0, 0, 0, 0]
    assert again.sections[1].relocations["symbol"].tolist() == [2, 3, 4, 5]
    assert again.sections[2].relocations["symbol"].tolist() == [1]


def test_what_is_needed_cannot_be_left_out() -> None:
    obj = with_comment()
    obj.sections[3].relocations = relocations([(0, R_64, 2, 0)])
    with pytest.raises(ModuleError, match="not loaded"):
        drop_unloaded_sections(obj)


def test_symbols_that_tell_nobody_anything_are_left_out() -> None:
    obj = an_object(Section(".modinfo", flags=DATA, data=b"license=GPL\0"))
    names = ("__UNIQUE_ID_license1", "lg_funcs")
    for name in names:
        obj.add_symbol(Symbol(name, 2, type=SymbolType.OBJECT))
    obj.sections[1].relocations["symbol"][0] = len(obj.symbols)
    obj.add_symbol(Symbol("__UNIQUE_ID_used2", 2))
    drop_unloaded_sections(obj)
    kept = [symbol.name for symbol in obj.symbols]
    assert kept == ["", *REFERENCES, "printk", "lg_funcs", "__UNIQUE_ID_used2"]
    assert [kept[n] for n in obj.sections[1].relocations["symbol"]] == [
        "__UNIQUE_ID_used2",
        *list(REFERENCES)[1:],
        "printk",
    ]
