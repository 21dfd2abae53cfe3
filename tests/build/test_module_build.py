# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules made by the kernel's own build system, from pieces made by hand."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.documents import validate
from tests.module_pieces import NAME, build, changes, cmdline_piece, compile_text, ext4_piece

from livegraft.changeset import VMLINUX, ChangeSet, Reference, Target
from livegraft.elf import header, writer
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.errors import ModuleError, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import open_module
from livegraft.kernel.symvers import read_symvers
from livegraft.module import glue, link
from livegraft.module.build import Module
from livegraft.module.inspect import inspect_bytes, inspect_module
from livegraft.runtime.payload import Payload

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def both(kernel: Kernel) -> ChangeSet:
    return changes(cmdline_piece(kernel), ext4_piece(kernel))


@pytest.fixture(scope="module")
def built(kernel: Kernel, both: ChangeSet) -> Module:
    return build(kernel, both)


def test_it_holds_what_was_asked_for(any_kernel: Kernel) -> None:
    change = changes(cmdline_piece(any_kernel), ext4_piece(any_kernel))
    module = build(any_kernel, change)
    found = inspect_bytes(module.data, NAME)
    # 6.1 reads all names for each relocation: the module applies them itself.
    slow = any_kernel.release.startswith("6.1.")
    assert [(each.target, each.symbol) for each in found.redirections] == [
        (Target(VMLINUX, "cmdline_proc_show", 1), "lg_new_cmdline_proc_show"),
        (Target("ext4", "ext4_seq_mb_stats_show", 1), "lg_new_ext4_seq_mb_stats_show"),
    ]
    assert {(each.owner, each.target.name) for each in found.references} == {
        ("ext4", "ext4_fs_type"),
        ("ext4", "str2hashbuf_unsigned"),
        (VMLINUX, "klp_transition_patch"),
        (VMLINUX, "klp_transition_work"),
        (VMLINUX, "saved_command_line"),
    } | ({(VMLINUX, name) for name in glue.RESOLVER_SYMBOLS} if slow else set())
    assert sum(found.relocations.values()) == module.relocations
    symvers = read_symvers(any_kernel.headers / "Module.symvers")
    for name, crc in found.imports.items():
        export = symvers.get(name)
        assert export is not None and (export.owner, export.crc) == (VMLINUX, crc)
    file = header.parse(module.data)
    loaded = {section.name for section in file.sections if section.flags & 2}
    others = {section.name for section in file.sections if section.name} - loaded
    rela = {name for name in others if name.startswith(".rela")}
    assert others - rela == {".livegraft", ".symtab", ".strtab", ".shstrtab"}
    assert len(module.data) < 32 << 10


def test_its_document_is_that_of_the_schema(built: Module) -> None:
    document = built.inspection.as_json() | {"signatures": [], "compared": True}  # the verb's
    assert "error" not in document
    validate("inspect", document)


def test_the_runtime_reads_it(built: Module, kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "test.ko"
    path.write_bytes(built.data)
    payload = Payload.read(path)
    assert payload.manifest is not None
    assert (payload.name, payload.release) == (NAME, kernel.release)
    assert payload.manifest.proof is True
    assert payload.relocated_modules == ("ext4",)
    assert [each.name for each in payload.manifest.objects] == [VMLINUX, "ext4"]


def test_the_same_input_gives_the_same_bytes(
    built: Module,
    kernel: Kernel,
    both: ChangeSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "a" / "much" / "longer" / "folder"
    other.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    again = build(kernel, both).data
    assert again == built.data
    for path in (str(tmp_path), "/tmp/", str(kernel.cache.root)):
        assert path.encode() not in again
    assert not list(other.iterdir())


@pytest.mark.parametrize("name", ["lg_glue", "Upper", "with-dash", "x" * 56, "9lives", ""])
def test_an_impossible_name_is_refused(kernel: Kernel, both: ChangeSet, name: str) -> None:
    with pytest.raises(UsageError):
        build(kernel, both, name)


# -- what must not get through --------------------------------------------------------------------


def test_an_unexported_symbol_is_named(kernel: Kernel, tmp_path: Path) -> None:
    text = "int lg_new(void); extern char *saved_command_line;\n"
    text += "int lg_new(void) { return saved_command_line[0]; }\n"
    piece = compile_text(kernel, text)
    with pytest.raises(ModuleError, match="saved_command_line, which the kernel"):
        build(kernel, changes(piece))


def test_a_modules_export_is_named(kernel: Kernel, tmp_path: Path) -> None:
    text = "int jbd2_journal_stop(void *); int lg_new(void *); \n"
    text += "int lg_new(void *handle) { return jbd2_journal_stop(handle) + 1; }\n"
    with pytest.raises(ModuleError, match="jbd2_journal_stop, which the kernel itself"):
        build(kernel, changes(compile_text(kernel, text)))


def test_objtools_complaint_is_shown(any_kernel: Kernel, tmp_path: Path) -> None:
    text = 'void lg_new(void); void lg_new(void) { asm volatile("push %rax"); }\n'
    with pytest.raises(ModuleError, match=r"objtool: .*stack") as caught:
        build(any_kernel, changes(compile_text(any_kernel, text)))
    assert "unwind" in caught.value.remedy


def test_code_without_unwind_data_is_noticed(
    any_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Callable[..., list[str]] = link._make
    monkeypatch.setattr(link, "_make", lambda *args: [*make(*args), "objtool-enabled="])
    piece = compile_text(any_kernel, "int lg_new(void); int lg_new(void) { return 1; }\n")
    with pytest.raises(ModuleError, match="no unwind data"):
        build(any_kernel, changes(piece))


def test_a_relocation_to_a_module_in_a_table_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    """A static key in ext4: ``jump_label_module_notify()`` reads it before ext4 is there."""
    text = """
#include <linux/jump_label.h>
extern struct static_key_false reference_ext4_fs_type;
int lg_new(void);
int lg_new(void) { return static_branch_unlikely(&reference_ext4_fs_type) ? 3 : 4; }
"""
    piece = compile_text(kernel, text, object="ext4")
    reference = Reference("reference_ext4_fs_type", "ext4", Target("ext4", "ext4_fs_type", 1))
    with pytest.raises(ModuleError, match="__jump_table: refers to ext4_fs_type in ext4"):
        build(kernel, changes(replace(piece, references=(reference,))))


def test_a_contradiction_in_the_change_set_is_refused(
    kernel: Kernel, both: ChangeSet, tmp_path: Path
) -> None:
    cmdline, ext4 = both.pieces
    function = cmdline.functions[0]
    for pieces, problem in (
        ((replace(cmdline, functions=(replace(function, symbol="no"),)), ext4), "no global symbol"),
        ((cmdline, replace(cmdline, unit="other.c")), "is in two pieces"),
        ((replace(cmdline, functions=()),), "redirects no function"),
        (
            (replace(cmdline, references=(replace(cmdline.references[0], owner="ext4"),)),),
            "waits for ext4",
        ),
        ((replace(cmdline, references=cmdline.references * 2),), "named twice"),
        (
            (replace(cmdline, functions=(replace(function, target=Target(VMLINUX, "x", 0)),)),),
            "cannot find",
        ),
        ((replace(cmdline, object="ext4"),), "and its piece is of"),
    ):
        with pytest.raises(ModuleError, match=problem):
            build(kernel, ChangeSet("compare", pieces))


# -- the border to the engine ---------------------------------------------------------------------


def test_the_layout_of_the_abi_is_checked_when_compiling(
    kernel: Kernel, both: ChangeSet, tmp_path: Path
) -> None:
    text = glue.render(
        changes(both.pieces[0]),
        name=NAME,
        description="Test",
        version="0",
        fix_sha256="0" * 64,
        namespaces=(),
    )
    assert "static_assert(sizeof(struct lg_payload) == 40);" in text
    wrong = text.replace("sizeof(struct lg_payload) == 40", "sizeof(struct lg_payload) == 48")
    with pytest.raises(ModuleError, match="static assertion failed"):
        link.link(tmp_path, name=NAME, glue=wrong, pieces={}, kernel=kernel)


def test_an_engine_finds_the_payload_where_it_expects_it(built: Module) -> None:
    """``lg_payload`` as it is in the file; its ABI, size and model are filled in at init."""
    obj = elf.parse(built.data)
    (symbol,) = [each for each in obj.symbols if each.name == "lg_payload"]
    section = obj.sections[symbol.section]
    assert symbol.size == 40
    assert section.data[symbol.value : symbol.value + 40] == bytes(40)
    pointers = {
        int(entry["offset"]) - symbol.value: obj.symbols[int(entry["symbol"])]
        for entry in section.relocations
        if symbol.value <= int(entry["offset"]) < symbol.value + 40
    }
    assert sorted(pointers) == [8, 24]
    assert pointers[8].name == "__this_module"


# -- reading back ---------------------------------------------------------------------------------


def tampered(built: Module, change: Callable[[ElfObject], None]) -> bytes:
    obj = elf.parse(built.data)
    change(obj)
    return writer.write(obj)


def section(obj: ElfObject, name: str) -> elf.Section:
    number = obj.section_number(name)
    assert number is not None
    return obj.sections[number]


def edit_manifest(obj: ElfObject, *path: str | int, to: object) -> None:
    manifest = section(obj, ".livegraft")
    document = json.loads(manifest.data)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    manifest.data = json.dumps(document).encode()
    manifest.size = len(manifest.data)


MANIFEST_LIES: dict[str, tuple[tuple[str | int, ...], object]] = {
    "functions": (("objects", 0, "functions", 0, "name"), "other"),
    "position": (("objects", 0, "functions", 0, "sympos"), 2),
    "state": (("objects", 0, "functions", 0, "state"), "new"),
    "symbol": (("objects", 1, "functions", 0, "symbol"), "lg_new_cmdline_proc_show"),
    "object": (("objects", 1, "name"), "xfs"),
    "build ID": (("objects", 1, "build_id"), ""),
    "references": (("references", 0, "count"), 7),
    "reference's position": (("references", 0, "sympos"), 2),
    "release": (("kernel", "release"), "6.1.0-56-amd64"),
    "fix": (("fix", "sha256"), "00" * 32),
    "what it fixes": (("fix", "cves"), ["CVE-2026-1234"]),
    "name": (("name",), "other"),
    "format": (("format",), 2),
    "nothing there": (("objects",), None),
}


def test_the_original_passes_after_a_rewrite(built: Module) -> None:
    """The control of the tests below: writing it again is not what they find."""
    inspect_bytes(tampered(built, lambda obj: None), NAME)


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_manifest_that_lies_is_refused(built: Module, lie: str) -> None:
    path, value = MANIFEST_LIES[lie]
    data = tampered(built, lambda obj: edit_manifest(obj, *path, to=value))
    with pytest.raises(ModuleError):
        inspect_bytes(data, NAME)


def _other_sympos(obj: ElfObject) -> None:
    (symbol,) = [each for each in obj.symbols if each.name == "lg_funcs_0"]
    data = obj.sections[symbol.section]
    at = symbol.value + 16
    data.data = data.data[:at] + b"\2" + data.data[at + 1 :]


def _other_livepatch_symbol(obj: ElfObject) -> None:
    for symbol in obj.symbols:
        symbol.name = symbol.name.replace("saved_command_line,1", "saved_command_line,2")


def _ordinary_relocation(obj: ElfObject) -> None:
    text = section(obj, ".text.cmdline_proc_show")
    own = section(obj, ".klp.rela.livegraft.text.cmdline_proc_show")
    text.relocations = own.relocations


def _other_owner(obj: ElfObject) -> None:
    own = section(obj, ".klp.rela.livegraft.text.cmdline_proc_show")
    own.name = own.name.replace("livegraft", "ext4")


def _no_livepatch_flag(obj: ElfObject) -> None:
    info = section(obj, ".modinfo")
    info.data = info.data.replace(b"livepatch=Y", b"livepatch=N")


def _other_licence(obj: ElfObject) -> None:
    info = section(obj, ".modinfo")
    info.data = info.data.replace(b"license=GPL", b"license=BSD")


def _other_release(obj: ElfObject) -> None:
    info = section(obj, ".modinfo")
    info.data = info.data.replace(b"vermagic=6", b"vermagic=5")


def _unexported_import(obj: ElfObject) -> None:
    for symbol in obj.symbols:
        if symbol.name == "seq_puts":
            symbol.name = "seq_shouts"


def _other_mark(obj: ElfObject) -> None:
    rodata = section(obj, ".rodata")
    assert b"1:a5a5" in rodata.data
    rodata.data = rodata.data.replace(b"1:a5a5", b"1:a5a6")


@pytest.mark.parametrize(
    "change",
    [
        _other_sympos,
        _other_livepatch_symbol,
        _ordinary_relocation,
        _other_owner,
        _no_livepatch_flag,
        _other_licence,
        _other_release,
        _unexported_import,
        _other_mark,
    ],
)
def test_a_file_that_differs_from_its_manifest_is_refused(
    built: Module, change: Callable[[ElfObject], None]
) -> None:
    data = tampered(built, change)
    assert data != built.data
    with pytest.raises(ModuleError):
        inspect_bytes(data, NAME)


def test_a_truncated_file_is_refused_wherever_it_ends(built: Module) -> None:
    data = built.data
    for size in (0, 3, 40, 64, 1000, *range(2000, len(data), 1777), len(data) - 1):
        with pytest.raises(ModuleError):
            inspect_bytes(data[:size], NAME)


def test_damaged_bytes_never_get_another_error(built: Module) -> None:
    """Each byte of the headers and every 97th besides: accepted or a ModuleError, nothing else."""
    data = built.data
    for at in (*range(64), *range(64, len(data), 97), *range(len(data) - 3 * 64, len(data))):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        try:
            inspect_bytes(bytes(damaged), NAME)
        except ModuleError:
            continue


def test_what_is_not_ours_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    shipped = writer.write(open_module(kernel, "loop").object)
    with pytest.raises(ModuleError, match="livegraft did not build"):
        inspect_bytes(shipped, NAME)
    with pytest.raises(ModuleError, match="not an ELF"):
        inspect_bytes(b"#!/bin/sh\n" + bytes(100), NAME)
    with pytest.raises(ModuleError, match="cannot be read"):
        inspect_module(tmp_path / "missing.ko")
    with pytest.raises(ModuleError, match=os.strerror(21)):
        inspect_module(tmp_path)
