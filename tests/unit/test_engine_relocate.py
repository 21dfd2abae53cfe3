# SPDX-License-Identifier: GPL-2.0-or-later
"""kmod/relocate.py on modules made by hand: as the payload's writer does, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kmod import relocate

from livegraft.changeset import VMLINUX, Reference, Target
from livegraft.elf import header, writer
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_32S, R_64, R_PC32, R_PLT32, RELOCATION_SIZES
from livegraft.elf.header import SectionFlag
from livegraft.elf.object import Binding, ElfObject, Section, Symbol, SymbolType, relocations
from livegraft.module import livepatch_relocations
from livegraft.module.livepatch_relocations import write_relocations

SCRIPT = Path(relocate.__file__)
CODE = SectionFlag.ALLOC | SectionFlag.EXECINSTR
NAMES = ("task_call_func", "tasklist_lock")
EXPORTED = ("_printk", "kfree")
CALL, LOCK, PRINTK, OWN = 2, 3, 4, 5


def a_module(*sections: Section) -> ElfObject:
    """Code that calls all there is, and further sections."""
    text = Section(".text", flags=CODE, data=b"\xe8\0\0\0\0" * 4, alignment=16)
    places = ((1, R_PLT32, CALL, -4), (6, R_32S, LOCK, 4), (11, R_PLT32, PRINTK, -4))
    text.relocations = relocations([*places, (16, R_PC32, CALL, -4)])
    table = Section("__jump_table", flags=SectionFlag.ALLOC, data=bytes(16))
    table.relocations = relocations([(8, R_64, LOCK, 0)])
    debug = Section(".debug_info", data=bytes(8))
    debug.relocations = relocations([(0, R_64, PRINTK, 0)])
    obj = ElfObject()
    obj.sections += [text, table, debug, *sections]
    obj.symbols += [
        Symbol("", 1, type=SymbolType.SECTION),
        *(Symbol(name, 0, binding=Binding.GLOBAL) for name in (*NAMES, EXPORTED[0])),
        Symbol("lg_register_payload", 1, binding=Binding.GLOBAL, type=SymbolType.FUNC),
    ]
    return obj


def relocated(obj: ElfObject) -> relocate.Done:
    return relocate.relocate(writer.write(obj), NAMES, EXPORTED)


def test_both_writers_know_the_same_format() -> None:
    other = livepatch_relocations
    assert relocate.FLAGS == other.FLAGS
    assert relocate.SHN_LIVEPATCH == header.SHN_LIVEPATCH
    assert f"{relocate.SYMBOL_PREFIX}f,0" == other.symbol_name(Target(VMLINUX, "f", 0))
    assert f"{relocate.SECTION_PREFIX}text" == other.section_name(VMLINUX, ".text")
    assert relocate.SIZES == RELOCATION_SIZES
    assert relocate.PER_CPU == other.PER_CPU


def test_both_writers_make_the_same() -> None:
    """Written by the same hand afterwards, the two are equal to the last byte."""
    done = relocated(a_module())
    references = {name: Reference(name, VMLINUX, Target(VMLINUX, name, 0)) for name in NAMES}
    other = elf.parse(writer.write(a_module()))
    assert write_relocations(other, references) == done.counts == dict.fromkeys(NAMES, 2)
    assert writer.write(elf.parse(done.data)) == writer.write(elf.parse(writer.write(other)))


def test_symbols_keep_their_numbers_and_relocations_move() -> None:
    before, after = (
        elf.parse(data) for data in (writer.write(a_module()), relocated(a_module())[0])
    )
    prefix = ".klp.sym.vmlinux."
    assert [each.name for each in after.symbols] == [
        f"{prefix}{each.name},0" if each.name in NAMES else each.name for each in before.symbols
    ]
    assert [each.section for each in after.symbols[CALL : OWN + 1]] == [0xFF20, 0xFF20, 0, 1]
    text, table, debug, *added = after.sections[1:]
    assert text.relocations["symbol"].tolist() == [PRINTK]
    assert len(table.relocations) == 0
    assert len(debug.relocations) == 1
    assert [(each.name, each.flags, each.info) for each in added] == [
        (".klp.rela.vmlinux.text", 0x100042, 1),
        (".klp.rela.vmlinux.__jump_table", 0x100042, 2),
    ]
    assert added[0].relocations["offset"].tolist() == [1, 6, 16]


def test_a_module_that_is_done_stays_as_it_is() -> None:
    once = relocated(a_module())
    again = relocate.relocate(once.data, NAMES, EXPORTED)
    assert again.data == once.data
    assert again.notes == []


def test_what_the_list_says_in_vain_is_told() -> None:
    names = [*NAMES, "kfree", "gone"]
    done = relocate.relocate(writer.write(a_module()), names, EXPORTED)
    assert done.notes == [
        "kfree is listed, but this kernel exports it",
        "gone is listed, but not needed",
    ]


def test_a_listed_symbol_that_is_exported_is_left_to_the_loader() -> None:
    done = relocate.relocate(writer.write(a_module()), NAMES, [*EXPORTED, NAMES[0]])
    assert NAMES[0] in {each.name for each in elf.parse(done.data).symbols if each.is_undefined}
    assert done.counts == {NAMES[1]: 2}


def test_a_symbol_that_is_neither_exported_nor_listed_is_refused() -> None:
    with pytest.raises(relocate.Problem, match=r"^_printk: is neither exported"):
        relocate.relocate(writer.write(a_module()), NAMES, ["kfree"])


def test_what_no_loader_would_apply_is_refused() -> None:
    def refused(problem: str, obj: ElfObject) -> None:
        with pytest.raises(relocate.Problem, match=problem):
            relocated(obj)

    obj = a_module()
    obj.sections[1].data = b"\xe8\1\0\0\0" * 4
    refused(r"^\.text: the place of a relocation to task_call_func is not zero", obj)
    obj = a_module()
    obj.sections[1].relocations["offset"][0] = 18
    refused("not zero", obj)
    obj = a_module()
    obj.sections[1].relocations["type"] = 9  # R_X86_64_GOTPCREL
    refused("type 9", obj)
    area = Section(".data..percpu", flags=SectionFlag.ALLOC, data=bytes(8))
    area.relocations = relocations([(0, R_64, LOCK, 0)])
    refused("percpu: refers to tasklist_lock, which no loader resolves", a_module(area))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no ELF file"),
        (b"\x7fELF\2\2\1" + bytes(80), "no ELF file"),
        (b"\x7fELF\2\1\1" + bytes(80), "no relocatable object"),
        (writer.write(a_module())[:-100], "section headers"),
        (writer.write(a_module()) + relocate.SIGNATURE, "is signed"),
    ],
)
def test_another_file_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(relocate.Problem, match=problem):
        relocate.relocate(data, NAMES, EXPORTED)


@pytest.mark.parametrize("text", ["one two", "one\none"])
def test_a_list_holds_names_once(text: str) -> None:
    assert relocate.listed("# first\none # why\n\ntwo\n") == ["one", "two"]
    with pytest.raises(relocate.Problem, match="is not one more name"):
        relocate.listed(text)


def test_only_what_the_kernel_itself_exports_is_there() -> None:
    lines = ["0x00000000\tkfree\tvmlinux\tEXPORT_SYMBOL\t", "0x0\tx\tfs/ext4/ext4\tEXPORT_SYMBOL\t"]
    assert list(relocate.exports("\n".join(lines))) == ["kfree"]
    with pytest.raises(relocate.Problem, match=r"no line of a Module\.symvers"):
        list(relocate.exports("kfree"))


def run(folder: Path, data: bytes, exported: tuple[str, ...] = EXPORTED) -> tuple[int, str]:
    """The script as make calls it: without any package, and in another working directory."""
    module = folder / "livegraft_engine.ko"
    module.write_bytes(data)
    module.chmod(0o600)
    (folder / "names").write_text("\n".join(NAMES))
    lines = [f"0x00000000\t{name}\tvmlinux\tEXPORT_SYMBOL_GPL\t\n" for name in exported]
    (folder / "symvers").write_text("".join(lines))
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, module.name, "symvers", "names"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_script_replaces_the_module(tmp_path: Path) -> None:
    assert run(tmp_path, writer.write(a_module())) == (0, "")
    module = tmp_path / "livegraft_engine.ko"
    assert module.read_bytes() == relocated(a_module()).data
    assert module.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {module.name, "names", "symvers"}


def test_the_script_leaves_a_module_alone_that_it_refuses(tmp_path: Path) -> None:
    data = writer.write(a_module())
    status, said = run(tmp_path, data, ("kfree",))
    assert (status, said.startswith("relocate.py: error: livegraft_engine.ko: _printk")) == (
        1,
        True,
    )
    assert (tmp_path / "livegraft_engine.ko").read_bytes() == data
