# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix in one function adds to a module: the function, and nothing of what lies around it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.compare_pairs import Running

from livegraft import pipeline
from livegraft.changeset import VMLINUX
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.cut import cut
from livegraft.elf import object as elf
from livegraft.fix.fix import Fix
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.verdict.judge import judge

pytestmark = pytest.mark.build

SCHED = "kernel/sched/core.c"
AROUND = ("fs/ext4/namei.c", "kernel/fork.c", "net/core/dev.c")
"""Units that other tests compile as well."""

CHANGE = ("\t\tppid = task_pid_nr(", "\t\tppid = 1 + task_pid_nr(")
"""A change of sched_show_task()."""

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"

RELOCATION = 24
"""Bytes of an ``Elf64_Rela``."""


def original(kernel: Kernel, path: str) -> Path:
    (unit,) = units_among(kernel, [path]).values()
    (command,) = learn(kernel, [unit]).values()
    return compile_original(kernel, command, Variant.SECTIONS).path


def changed(kernel: Kernel, fix: Path, folder: Path) -> tuple[Path, Path]:
    """The fix's only unit before and after it."""
    changes = Fix.load([fix]).apply(kernel.source)
    (unit,) = units_among(kernel, [str(path) for path in changes]).values()
    (command,) = learn(kernel, [unit]).values()
    after = folder / f"{fix.stem}.o"
    with shadow_of(kernel.source, changes) as shadow:
        flags = Variant.SECTIONS.flags
        compile_unit(kernel, command, output=after, shadow=shadow, extra_flags=flags)
    return compile_original(kernel, command, Variant.SECTIONS).path, after


def compared(before: Path, after: Path) -> Comparison:
    return judge(compare_objects(elf.read(before), elf.read(after)))


def own_size(comparison: Comparison) -> int:
    """The code, tables and strings of what changed, as the compiler made them, in bytes."""
    unit = comparison.patched
    parts = [part for each in comparison.inclusion.in_order() for part in (each, *each.entries)]
    return sum(
        part.end - part.start + RELOCATION * len(unit.offset[unit.span(part)]) for part in parts
    )


@pytest.fixture(scope="module")
def fix(kernel: Kernel, fix_of: Callable[[dict[str, tuple[str, str]]], Path]) -> Path:
    return fix_of({SCHED: CHANGE})


def test_a_piece_is_the_same_whatever_else_its_object_holds(
    kernel: Kernel, fix: Path, tmp_path: Path
) -> None:
    alone = changed(kernel, fix, tmp_path)
    around = [original(kernel, path) for path in AROUND]
    joined = [tmp_path / f"joined.{number}.o" for number in (0, 1)]
    for first, output in zip(alone, joined, strict=True):
        subprocess.run(["ld", "-r", "-o", output, first, *around], check=True)
    assert joined[0].stat().st_size > 2 * alone[0].stat().st_size
    sizes = []
    for pair in (alone, joined):
        comparison = compared(*pair)
        assert comparison.changed == ("sched_show_task",)
        sizes.append(len(cut(comparison, SCHED, VMLINUX, Running()).piece.data))
    assert abs(sizes[0] - sizes[1]) <= 16


def test_a_module_grows_by_less_than_twice_the_functions_own_size(
    kernel: Kernel, fix: Path, tmp_path: Path
) -> None:
    """Beside a module that brings a function of 57 bytes."""
    own, sizes = [], []
    for each in (SAMPLE, fix):
        output = tmp_path / f"{each.stem}.ko"
        sizes.append(pipeline.build([each], kernel, output=output).size)
        own.append(own_size(compared(*changed(kernel, each, tmp_path))) + unwinding(output))
    assert sizes[1] - sizes[0] <= 2 * (own[1] - own[0])


def unwinding(module: Path) -> int:
    """The tables that objtool makes for a module's functions, in bytes."""
    return sum(
        len(each.data) + RELOCATION * len(each.relocations)
        for each in elf.read(module).sections
        if each.name.startswith(".orc_unwind")
    )
