# SPDX-License-Identifier: GPL-2.0-or-later
"""Constants that the boot writes into code become loads of the variable."""

from __future__ import annotations

import pytest

from livegraft.compare.runtimeconst import constant_of, is_runtime_constant, read_variables
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_PC32, R_PLT32
from livegraft.elf.object import Binding, ElfObject, Section, Symbol

PLACEHOLDER = 0x0123456789ABCDEF.to_bytes(8, "little")
BEFORE, AFTER = bytes.fromhex("f30f1efa55"), bytes.fromhex("e800000000c3")
TABLE = "runtime_ptr_USER_PTR_MAX"


def made(prefix: str, *, table: str = TABLE, defined: bool = False) -> ElfObject:
    """A function that loads the placeholder and then calls another."""
    obj = ElfObject()
    code = BEFORE + bytes.fromhex(prefix) + PLACEHOLDER + AFTER
    call = (len(BEFORE) + 2 + 8 + 1, R_PLT32, 2, -4)
    text = obj.add_section(
        Section(".text.f", flags=6, data=code, relocations=elf.relocations([call]))
    )
    obj.add_symbol(Symbol("f", text, size=len(code), type=2))
    obj.add_symbol(Symbol("g", 0, binding=Binding.GLOBAL))
    if defined:
        data = obj.add_section(Section(".data.USER_PTR_MAX", flags=3, data=bytes(8)))
        obj.add_symbol(Symbol("USER_PTR_MAX", data, size=8, type=1))
    site = elf.relocations([(0, R_PC32, 1, len(BEFORE) + 2)])
    obj.add_section(Section(table, flags=2, data=bytes(4), relocations=site))
    return obj


@pytest.mark.parametrize(
    ("prefix", "load"),
    [  # as GNU as and objdump have them
        ("48b8", "488b0500000000"),  # rax
        ("48b9", "488b0d00000000"),  # rcx
        ("48bd", "488b2d00000000"),  # rbp
        ("48bf", "488b3d00000000"),  # rdi
        ("49b8", "4c8b0500000000"),  # r8
        ("49b9", "4c8b0d00000000"),  # r9
        ("49bf", "4c8b3d00000000"),  # r15
    ],
)
@pytest.mark.parametrize("defined", [False, True])
def test_the_variable_is_loaded_into_the_same_register(
    prefix: str, load: str, defined: bool
) -> None:
    obj = made(prefix, defined=defined)
    read_variables(obj)
    text = obj.sections[1]
    assert text.data == BEFORE + bytes.fromhex(load) + bytes.fromhex("0f1f00") + AFTER
    first, call = text.relocations.tolist()
    assert first[:2] == (len(BEFORE) + 3, R_PC32) and first[3] == -4
    assert obj.symbols[first[2]].name == "USER_PTR_MAX"
    assert obj.symbols[first[2]].is_undefined is not defined
    assert sum(symbol.name == "USER_PTR_MAX" for symbol in obj.symbols) == 1
    assert obj.symbols[call[2]].name == "g"
    assert obj.sections[-1].size == 0 and not len(obj.sections[-1].relocations)


@pytest.mark.parametrize(
    ("prefix", "table"), [("90b8", TABLE), ("48c7", TABLE), ("48b8", "runtime_shift_d_hash_shift")]
)
def test_what_is_not_known_stays_and_can_be_refused(prefix: str, table: str) -> None:
    obj = made(prefix, table=table)
    code = obj.sections[1].data
    read_variables(obj)
    assert obj.sections[1].data == code
    assert obj.sections[-1].size == 4 and len(obj.sections[-1].relocations) == 1


def test_names() -> None:
    assert is_runtime_constant("runtime_shift_d_hash_shift")
    assert not is_runtime_constant("runtime_other")
    assert constant_of("runtime_shift_d_hash_shift") == "d_hash_shift"
    assert constant_of(TABLE) == "USER_PTR_MAX"
