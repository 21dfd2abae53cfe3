# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof on the distribution's own kernels, and what it says of references."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft.changeset import Target
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject, SymbolType
from livegraft.errors import KernelError, ProofFailed, Refused
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.objects import Unit, units_among
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.proof import prove, prove_against
from livegraft.kbuild.unproved import place_unproved
from livegraft.kernel.image import open_image, parse_image
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import open_module, parse_module
from livegraft.kernel.references import Resolver
from livegraft.kernel.shipped import ImageCode, ModuleCode, open_shipped
from livegraft.kernel.symbols import KernelSymbols, module_place

pytestmark = pytest.mark.build

FORK = "kernel/fork.c"
MBALLOC = "fs/ext4/mballoc.c"
REALTEK = "drivers/usb/storage/realtek_cr.c"
UNITS = (FORK, "net/ipv4/tcp_input.c", "fs/proc/cmdline.c", MBALLOC)


def unit_of(kernel: Kernel, path: str) -> Unit:
    return units_among(kernel, (*UNITS, REALTEK))[path]


def plain(kernel: Kernel, path: str) -> ElfObject:
    unit = unit_of(kernel, path)
    return elf.read(compile_original(kernel, learn(kernel, [unit])[unit], Variant.PLAIN).path)


def placement_of(kernel: Kernel, path: str) -> Placement:
    return prove(kernel, path, unit_of(kernel, path).object, plain(kernel, path))


def functions(unit: ElfObject) -> list[str]:
    return [s.name for s in unit.symbols if s.in_section and s.type == SymbolType.FUNC]


@pytest.mark.parametrize("path", UNITS)
def test_every_function_is_the_shipped_one(any_kernel: Kernel, path: str) -> None:
    placement = placement_of(any_kernel, path)
    judged = [*placement.proven, *placement.overridden, *placement.discarded]
    assert sorted(judged) == sorted(functions(plain(any_kernel, path)))
    assert placement.discarded == {}
    # What the architecture overrides, and nothing else, is not proven.
    weak = ("arch_dup_task_struct", "arch_release_task_struct") if path == FORK else ()
    assert placement.overridden == weak


def test_positions_are_those_of_the_places(any_kernel: Kernel) -> None:
    placement = placement_of(any_kernel, FORK)
    symbols = open_shipped(any_kernel, "vmlinux").symbols
    for name in placement.proven:
        target = placement.target(name)
        assert symbols.places(name)[target.sympos - 1] == placement.places[name]
    # Many units have one of that name; the address tells which is this unit's.
    twins = [name for name in placement.places if len(symbols.places(name)) > 1]
    assert twins
    assert max(placement.target(name).sympos for name in twins) > 1


def test_one_bit_in_the_image_is_noticed(any_kernel: Kernel) -> None:
    shipped = open_shipped(any_kernel, "vmlinux")
    assert isinstance(shipped, ImageCode) and isinstance(shipped.symbols, KernelSymbols)
    image = open_image(any_kernel)
    address = shipped.symbols.places("copy_process")[0] + 0x43
    section = image.section_at(address)
    assert section is not None
    data = bytearray(image.file.data)
    data[section.offset + address - section.address] ^= 1
    damaged = ImageCode(parse_image(bytes(data), "vmlinux"), shipped.symbols)
    with pytest.raises(ProofFailed) as caught:
        prove_against(damaged, FORK, plain(any_kernel, FORK))
    assert list(caught.value.differing) == ["copy_process"]


@pytest.mark.parametrize("part", ["code", "relocation"])
def test_one_change_in_the_module_is_noticed(any_kernel: Kernel, part: str) -> None:
    shipped = open_module(any_kernel, "ext4")
    place = shipped.symbols.places("ext4_mb_load_buddy_gfp")[0]
    number, offset = place >> 32, place & 0xFFFFFFFF
    section = shipped.object.sections[number]
    kept = section.data, section.relocations
    try:
        if part == "code":
            changed = bytearray(section.data)
            changed[offset + 0x30] ^= 1
            section.data = bytes(changed)
        else:
            section.relocations = section.relocations.copy()
            inside = section.relocations["offset"] >= offset + 8
            first = section.relocations["offset"][inside].argmin()
            at = inside.nonzero()[0][first]
            section.relocations["addend"][at] += 8
        with pytest.raises(ProofFailed) as caught:
            prove_against(ModuleCode(shipped), MBALLOC, plain(any_kernel, MBALLOC))
    finally:
        section.data, section.relocations = kept
    assert list(caught.value.differing) == ["ext4_mb_load_buddy_gfp"]


def test_other_flags_are_noticed(kernel: Kernel, tmp_path: Path) -> None:
    unit = unit_of(kernel, MBALLOC)
    command = learn(kernel, [unit])[unit]
    made = compile_unit(kernel, command, output=tmp_path / "unit.o", extra_flags=("-O1",))
    with pytest.raises(ProofFailed) as caught:
        prove(kernel, MBALLOC, "ext4", elf.read(made.path))
    assert len(caught.value.differing) > 20
    assert caught.value.remedy


def test_another_unit_is_not_taken_for_this_one(kernel: Kernel) -> None:
    with pytest.raises(ProofFailed):
        prove(kernel, MBALLOC, "vmlinux", plain(kernel, MBALLOC))
    with pytest.raises(ProofFailed):
        prove(kernel, FORK, "ext4", plain(kernel, FORK))


def test_references_of_vmlinux(any_kernel: Kernel) -> None:
    resolver = Resolver(any_kernel, placement_of(any_kernel, FORK))
    for exported in ("_printk", "__fentry__", "memcpy", "__x86_return_thunk", "init_task"):
        assert resolver.external(exported) is None
    assert resolver.external("tasklist_lock") == Target("vmlinux", "tasklist_lock", 1)
    assert resolver.external("copy_namespaces") == Target("vmlinux", "copy_namespaces", 1)
    assert resolver.local("copy_process").sympos == 1
    with pytest.raises(Refused, match="is weak"):
        resolver.local("arch_dup_task_struct")
    assert resolver.referenced("arch_dup_task_struct").name == "arch_dup_task_struct"
    for name in ("no_such_symbol", "jbd2_journal_start_reserved"):
        with pytest.raises(Refused) as caught:
            resolver.external(name)
        assert caught.value.reasons[0].rule == "unresolved-reference"


def test_references_of_a_module(any_kernel: Kernel) -> None:
    resolver = Resolver(any_kernel, placement_of(any_kernel, MBALLOC))
    assert resolver.external("_printk") is None
    assert resolver.external("__ext4_std_error") == Target("ext4", "__ext4_std_error", 1)
    jbd2 = resolver.external("jbd2_journal_flush")
    assert jbd2 == Target("jbd2", "jbd2_journal_flush", 1)
    assert resolver.external("tasklist_lock") == Target("vmlinux", "tasklist_lock", 1)
    assert resolver.local("mb_find_buddy").object == "ext4"
    with pytest.raises(Refused, match="does not depend"):
        resolver.external("nf_conntrack_find_get")
    with pytest.raises(Refused, match="is gone"):
        resolver.local("ext4_init_mballoc")


def test_what_a_module_depends_on_is_there_with_it(kernel: Kernel) -> None:
    """``depends=usb-storage`` of ums-realtek, and ``usbcore``, which usb-storage depends on."""
    resolver = Resolver(kernel, placement_of(kernel, REALTEK))
    assert resolver.external("usb_stor_control_msg") == Target(
        "usb_storage", "usb_stor_control_msg", 1
    )
    assert resolver.external("usb_hub_find_child") == Target("usbcore", "usb_hub_find_child", 1)


def test_without_proof_only_unique_names_have_a_place(kernel: Kernel) -> None:
    proven = placement_of(kernel, FORK)
    guessed = place_unproved(kernel, FORK, "vmlinux", plain(kernel, FORK))
    shared = guessed.places.keys() & proven.places.keys()
    assert len(shared) > 80
    assert all(guessed.places[name] == proven.places[name] for name in shared)
    assert guessed.target("copy_process") == proven.target("copy_process")
    ambiguous = set(proven.places) - set(guessed.places)
    assert "arch_dup_task_struct" in ambiguous
    for name in ambiguous:
        with pytest.raises(Refused):
            guessed.target(name)


def test_modules_are_found_by_name(any_kernel: Kernel) -> None:
    module = open_module(any_kernel, "nf-conntrack")
    assert module.name == "nf_conntrack"
    assert len(module.build_id) == 40
    assert "nf_conntrack_find_get" in module.exports
    assert set(module.depends) >= {"nf_defrag_ipv4", "nf_defrag_ipv6"}
    with pytest.raises(KernelError, match="no such module"):
        open_module(any_kernel, "no_such_module")
    ext4 = open_module(any_kernel, "ext4")
    assert parse_module(_unpacked(ext4.path), ext4.path).build_id == ext4.build_id
    number = ext4.object.section_number(".text")
    assert number is not None
    found = next(s for s in ext4.object.symbols if s.name == "ext4_mb_load_buddy_gfp")
    assert ext4.symbols.places("ext4_mb_load_buddy_gfp") == (module_place(found),)


def _unpacked(path: Path) -> bytes:
    import lzma

    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
