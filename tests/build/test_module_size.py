# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix in one function adds to a module: the function, and nothing of what lies around it."""

from __future__ import annotations

import re
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

MORE = (
    *("fs/ext4/super.c", "kernel/rcu/tree.c", "kernel/printk/printk.c", "kernel/trace/trace.c"),
    *("kernel/sched/build_utility.c", "kernel/events/core.c", "net/core/filter.c", "mm/vmscan.c"),
    *("net/core/net-traces.c", "kernel/cgroup/cgroup.c", "mm/memory.c", "fs/namespace.c"),
)
"""Others, which are large."""

CHANGE = ("\t\tppid = task_pid_nr(", "\t\tppid = 1 + task_pid_nr(")
"""A change of sched_show_task()."""

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"

TABLE = re.compile(r"__\w+|\.(?:altinstructions|parainstructions|smp_locks)")

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


def own_size(path: Path, function: str) -> int:
    """A function's code, its entries of tables, and its strings, in bytes, of the object alone.

    Its sections have its name; of a table it has as much as of the table's relocations lead to it.
    """
    obj = elf.read(path)
    name = re.compile(rf"\.(?:text|rodata)(?:\.unlikely)?\.{function}(?:\.cold|\.str[.0-9]+)?")
    own = {n for n, each in enumerate(obj.sections) if name.fullmatch(each.name)}
    size = 0
    for number, each in enumerate(obj.sections):
        bytes_of = len(each.data) + RELOCATION * len(each.relocations)
        if number in own:
            size += bytes_of
        elif TABLE.fullmatch(each.name):
            targets = [obj.symbols[n].section for n in each.relocations["symbol"].tolist()]
            size += bytes_of * sum(each in own for each in targets) // max(len(targets), 1)
    return size


@pytest.fixture(scope="module")
def fix(kernel: Kernel, fix_of: Callable[[dict[str, tuple[str, str]]], Path]) -> Path:
    return fix_of({SCHED: CHANGE})


@pytest.mark.parametrize(
    ("units", "size"),
    [
        (AROUND, 1_000_000),
        pytest.param((*AROUND, *MORE), 5_000_000, marks=pytest.mark.soak),
    ],
    ids=["1MB", "5MB"],
)
def test_a_piece_is_the_same_whatever_else_its_object_holds(
    units: tuple[str, ...], size: int, kernel: Kernel, fix: Path, tmp_path: Path
) -> None:
    alone = changed(kernel, fix, tmp_path)
    around = [original(kernel, path) for path in units]
    joined = [tmp_path / f"joined.{number}.o" for number in (0, 1)]
    for first, output in zip(alone, joined, strict=True):
        subprocess.run(["ld", "-r", "-o", output, first, *around], check=True)
    assert joined[0].stat().st_size > size
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
        pair = changed(kernel, each, tmp_path)
        (function,) = compared(*pair).changed
        own.append(own_size(pair[1], function) + unwinding(output))
    assert sizes[1] - sizes[0] <= 2 * (own[1] - own[0])


def unwinding(module: Path) -> int:
    """The tables that objtool makes for a module's functions, in bytes."""
    return sum(
        len(each.data) + RELOCATION * len(each.relocations)
        for each in elf.read(module).sections
        if each.name.startswith(".orc_unwind")
    )
