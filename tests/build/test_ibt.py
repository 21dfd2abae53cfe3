# SPDX-License-Identifier: GPL-2.0-or-later
"""Indirect branch tracking: what may be called through a pointer on a kernel that has it.

QEMU does not emulate the feature: a module that breaks the rule runs there, and would stop a real
machine. So the check on the file is all there is, and here it is shown to find what it should.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.changeset import VMLINUX, Target
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import R_PC32
from livegraft.elf.object import ElfObject, Section
from livegraft.errors import ModuleError
from livegraft.kernel import entrance
from livegraft.kernel.entrance import Entrance, Entrances
from livegraft.kernel.kernel import Kernel
from livegraft.module import ibt
from livegraft.module.klp import livepatch_targets
from livegraft.pipeline import Verdict

DATA = Path(__file__).parents[1] / "data"

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def tracked(any_kernel: Kernel) -> bool:
    return any_kernel.config.enabled(entrance.SETTING)


@pytest.fixture(scope="module")
def built(any_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A module that takes the address of a function of its own, and calls one that is sealed."""
    output = tmp_path_factory.mktemp("ibt") / "endbr.ko"
    return pipeline.build([DATA / "endbr.patch"], any_kernel, output=output).path.read_bytes()


def test_the_address_of_a_sealed_function(any_kernel: Kernel, tracked: bool) -> None:
    outcome = pipeline.check([DATA / "no-endbr.patch"], any_kernel)
    if tracked:
        (reason,) = outcome.reasons
        assert (reason.rule, reason.object) == ("no-endbr", "get_idle_time")
        assert "removes it" in reason.message
    else:
        assert outcome.verdict is Verdict.PATCHABLE


def test_what_the_kernel_says_of_its_functions(any_kernel: Kernel, tracked: bool) -> None:
    entrances = Entrances(any_kernel)

    def of(name: str) -> Entrance:
        return entrances.of(Target(VMLINUX, name, 1))

    assert of("jiffies") is Entrance.DATA
    if tracked:
        assert of("seq_printf") is entrances.exported("seq_printf") is Entrance.OPEN
        assert of("get_idle_time") is Entrance.SEALED
        assert of("path_openat") is Entrance.CLOSED


def test_a_sound_module_passes_and_a_damaged_one_does_not(
    any_kernel: Kernel, tracked: bool, built: bytes
) -> None:
    if not tracked:
        return
    entrances = Entrances(any_kernel)
    ibt.check_module(elf.parse(built, "sound"), entrances)

    obj = elf.parse(built, "its ENDBR is overwritten")
    symbol = next(each for each in obj.symbols if each.name == "read_idle_time")
    section = obj.sections[symbol.section]
    at = symbol.value
    assert section.data[at : at + 4] == bytes.fromhex("f30f1efa")
    section.data = section.data[:at] + bytes.fromhex("0f1f4000") + section.data[at + 4 :]
    with pytest.raises(ModuleError, match=r"address of .*, which does not begin with ENDBR"):
        ibt.check_module(obj, entrances)

    obj = elf.parse(built, "a pointer leads to a sealed function")
    number, name = _livepatch_symbol(obj, "get_idle_time")
    _retarget(obj, ".gnu.linkonce.this_module", "init_module", number)
    with pytest.raises(ModuleError, match=rf"{name}\+0x0, which has no ENDBR any more"):
        ibt.check_module(obj, entrances)

    obj = elf.parse(built, "a function of its own is sealed")
    init = next(n for n, each in enumerate(obj.symbols) if each.name == "init_module")
    entry = elf.relocations([(0, R_PC32, init, 0)])
    obj.add_section(Section(entrance.SEALED, data=bytes(4), relocations=entry))
    with pytest.raises(ModuleError, match=r"init_module.* has no ENDBR any more"):
        ibt.check_module(obj, entrances)


def test_no_build_leaves_the_check_out(
    any_kernel: Kernel, tracked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tracked:
        return

    def refuse(obj: ElfObject, entrances: Entrances) -> None:
        raise ModuleError(obj.sections[-1].name, "leads to a sealed function")

    monkeypatch.setattr(ibt, "check_module", refuse)
    output = tmp_path / "endbr.ko"
    with pytest.raises(ModuleError, match="leads to a sealed function"):
        pipeline.build([DATA / "endbr.patch"], any_kernel, output=output)
    assert not output.exists()


def _livepatch_symbol(obj: ElfObject, name: str) -> tuple[int, str]:
    found = next(n for n, target in livepatch_targets(obj).items() if target.name == name)
    return found, obj.symbols[found].name.replace(".", r"\.")


def _retarget(obj: ElfObject, section: str, old: str, new: int) -> None:
    number = obj.section_number(section)
    assert number is not None
    relocations = obj.sections[number].relocations
    for entry in relocations:
        if obj.symbols[int(entry["symbol"])].name == old:
            entry["symbol"] = new
            return
    raise AssertionError(f"{section} does not refer to {old}")
