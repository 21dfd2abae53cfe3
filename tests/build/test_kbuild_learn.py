# SPDX-License-Identifier: GPL-2.0-or-later
"""What is learnt from kbuild is what kbuild does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from livegraft.errors import BuildError
from livegraft.kbuild.command import learn, parse
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.objects import Unit, units_among
from livegraft.kernel.kernel import Kernel
from livegraft.run import run

pytestmark = pytest.mark.build

UNITS = {
    "fs/ext4/mballoc.c": ("ext4", "fs/ext4/ext4.ko"),
    # in a folder without a Makefile, with flags handed down
    "fs/xfs/libxfs/xfs_bit.c": ("xfs", "fs/xfs/xfs.ko"),
    # built by another folder's Makefile
    "virt/kvm/irqchip.c": ("kvm", "arch/x86/kvm/kvm.ko"),
    # needs a header that is generated first
    "fs/smb/client/asn1.c": ("cifs", "fs/smb/client/cifs.ko"),
    # without -pg
    "arch/x86/kernel/ftrace.c": ("vmlinux", None),
    "arch/x86/kernel/head64.c": ("vmlinux", None),
    # without the stack protector, or with flags of its own
    "lib/string.c": ("vmlinux", None),
    "arch/x86/entry/vdso/vma.c": ("vmlinux", None),
    # in lib.a
    "arch/x86/lib/usercopy_64.c": ("vmlinux", None),
}

NOT_BUILT = (
    "fs/ext2/inode.c",  # its folder is not entered
    "kernel/sched/rt.c",  # included by another .c file
    "mm/kasan/common.c",  # switched off
    "arch/arm64/kernel/process.c",  # another architecture
    "arch/x86/entry/vdso/vclock_gettime.c",  # part of another image
    "drivers/firmware/efi/libstub/file.c",  # in a lib.a that is not vmlinux's
    "fs/ext4/none.c",  # does not exist
)


def test_what_is_built_and_where(any_kernel: Kernel) -> None:
    found = units_among(any_kernel, [*UNITS, *NOT_BUILT])
    assert {path: (unit.object, unit.module_path) for path, unit in found.items()} == UNITS
    assert units_among(any_kernel, [*UNITS, *NOT_BUILT]) == found  # from the cache


def test_files_of_a_module_that_is_not_shipped_are_not_built(
    kernel: Kernel, tmp_path: Path
) -> None:
    from dataclasses import replace

    from livegraft.kbuild.objects import is_shipped

    assert is_shipped(kernel, "fs/ext4/ext4.ko")
    assert not is_shipped(replace(kernel, modules=tmp_path), "fs/ext4/ext4.ko")


def test_learnt_commands_are_those_that_kbuild_runs(newest_kernel: Kernel, tmp_path: Path) -> None:
    """Byte for byte what make writes into the .cmd files of a copy of the build tree."""
    build = tmp_path / "build"
    shutil.copytree(newest_kernel.build, build, symlinks=True)
    units = units_among(newest_kernel, UNITS)
    commands = learn(newest_kernel, units.values())
    argv = newest_kernel.make_argv(*(unit.target for unit in units.values()))
    run([word.replace(str(newest_kernel.build), str(build)) for word in argv], timeout=600)
    for unit, command in commands.items():
        target = build / unit.target
        text = (target.parent / f".{target.name}.cmd").read_text().splitlines()[0]
        assert command == parse(text.split(":=", 1)[1]), unit.path
        if unit.object != "vmlinux":
            assert command.modname == unit.object


def test_flags_differ_from_unit_to_unit(kernel: Kernel) -> None:
    """The control of the test above: one command for all would be wrong."""
    commands = learn(kernel, units_among(kernel, UNITS).values())
    flags = {unit.path: frozenset(command.argv) for unit, command in commands.items()}
    assert "-pg" in flags["fs/ext4/mballoc.c"]
    assert "-pg" not in flags["arch/x86/kernel/ftrace.c"]
    assert "-ffreestanding" in flags["lib/string.c"] - flags["fs/ext4/mballoc.c"]


def test_what_kbuild_does_not_compile_has_no_command(kernel: Kernel) -> None:
    with pytest.raises(BuildError):
        learn(kernel, [Unit("fs/ext4/none.c", "ext4", "fs/ext4/ext4.ko", "fs/ext4/none.o")])


def test_the_environment_is_the_kernels_own(kernel: Kernel) -> None:
    found = environment_of(kernel)
    assert found["srctree"] == str(kernel.source)
    assert found["KERNELRELEASE"] == kernel.release
    assert "--eval" not in found["MAKEFLAGS"]
    assert not {"PATH", "HOME", "LIVEGRAFT_OUT", "MAKELEVEL"} & found.keys()
