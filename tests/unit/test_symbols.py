# SPDX-License-Identifier: GPL-2.0-or-later
"""Positions of symbols, as the livepatch core counts them."""

from __future__ import annotations

import numpy as np
import pytest

from livegraft.changeset import Target
from livegraft.elf.header import SHN_ABS, SectionFlag
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType
from livegraft.errors import Refused
from livegraft.kernel.kallsyms import Kallsyms
from livegraft.kernel.symbols import KernelSymbols, ModuleSymbols, module_place

TEXT = 0xFFFFFFFF81000000


def kernel_symbols(*table: tuple[int, str, str]) -> KernelSymbols:
    names = [name.encode() for _, _, name in table]
    starts = np.cumsum([0, *(len(name) + 1 for name in names)])[:-1]
    order = sorted(range(len(names)), key=names.__getitem__)
    return KernelSymbols(
        Kallsyms(
            b"\0".join(names) + b"\0",
            starts.astype(np.uint32),
            "".join(letter for _, letter, _ in table).encode(),
            np.array([address for address, _, _ in table], dtype=np.uint64),
            np.array(order, dtype=np.uint32),
        )
    )


def test_the_kernel_counts_symbols_of_all_kinds() -> None:
    table = kernel_symbols(
        (0x40, "A", "seen"), (TEXT, "t", "seen"), (TEXT + 8, "T", "other"), (TEXT + 16, "d", "seen")
    )
    assert table.places("seen") == (0x40, TEXT, TEXT + 16)
    assert table.target("seen", TEXT + 16) == Target("vmlinux", "seen", 3)
    assert table.target("other", TEXT + 8) == Target("vmlinux", "other", 1)
    assert [entry.is_global for entry in table.entries("seen")] == [None, False, False]


def test_a_symbol_at_another_place_is_refused() -> None:
    table = kernel_symbols((0, "A", "first"), (TEXT, "t", "seen"))
    with pytest.raises(Refused, match="no such symbol"):
        table.target("seen", TEXT + 1)
    with pytest.raises(Refused, match="no such symbol"):
        table.target("unseen", TEXT)
    with pytest.raises(Refused, match="address 0"):
        table.target("first", 0)


def module(*symbols: Symbol) -> ElfObject:
    result = ElfObject()
    for name in (".text", ".init.text", ".modinfo"):
        result.add_section(Section(name, flags=SectionFlag.ALLOC, data=bytes(64)))
    for symbol in symbols:
        result.add_symbol(symbol)
    return result


def function(name: str, section: int, value: int, binding: int = Binding.LOCAL) -> Symbol:
    return Symbol(name, section, value, 8, binding, SymbolType.FUNC)


def test_a_module_counts_in_the_order_of_its_symbol_table() -> None:
    late, early = function("twin", 1, 32), function("twin", 1, 0)
    undefined = Symbol("twin", 0, binding=Binding.GLOBAL)
    table = ModuleSymbols("demo", module(late, undefined, early))
    assert table.target("twin", module_place(late)) == Target("demo", "twin", 1)
    assert table.target("twin", module_place(early)) == Target("demo", "twin", 2)


@pytest.mark.parametrize("gone", [function("twin", 2, 0), Symbol("twin", SHN_ABS)])
def test_a_position_that_changes_when_init_is_over_is_refused(gone: Symbol) -> None:
    kept = function("twin", 1, 0)
    with pytest.raises(Refused, match="position changes"):
        ModuleSymbols("demo", module(gone, kept)).target("twin", module_place(kept))
    # Behind it, it changes nothing.
    table = ModuleSymbols("demo", module(kept, gone))
    assert table.target("twin", module_place(kept)) == Target("demo", "twin", 1)


@pytest.mark.parametrize("section", [2, 3])
def test_what_is_gone_after_init_is_no_target(section: int) -> None:
    init = function("start", section, 0)
    with pytest.raises(Refused, match="is gone"):
        ModuleSymbols("demo", module(init)).target("start", module_place(init))
