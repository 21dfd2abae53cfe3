# SPDX-License-Identifier: GPL-2.0-or-later
"""What is made of a changed header beside C functions: offsets for assembly, assembly, the vDSO.

None of it can be replaced in a running kernel. So each is made before and after, and has to be the
same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from livegraft.errors import Reason
from livegraft.kbuild.command import Command, parse
from livegraft.kbuild.compile import compile_unit, files_read, preprocess, side_by_side
from livegraft.kbuild.descent import descend
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.objects import object_of, units_among
from livegraft.kbuild.shadow import Changes, Shadow, shadow_of
from livegraft.kbuild.target import KernelTree
from livegraft.progress import SILENT, Progress


class Product(StrEnum):
    """What is made; the value is the rule that refuses it."""

    OFFSETS = "asm-offsets"
    ASSEMBLY = "assembly"
    VDSO = "vdso"


_MESSAGES = {
    Product.OFFSETS: "numbers that assembly code is built with change",
    Product.ASSEMBLY: "assembly code changes with it",
    Product.VDSO: "the vDSO changes with it, which runs in user space",
}


_VDSO32_FLAGS = ("-m32", "-mcmodel=32", "-mpreferred-stack-boundary=2", "-mregparm=0")
"""What turns a unit's command into one for the 32-bit vDSO; near enough to compare two builds.

Its own flags are target-specific variables of arch/x86/entry/vdso/Makefile, which apply only while
the whole vdso32.so is made.
"""


@dataclass(frozen=True, slots=True)
class _Job:
    product: Product
    path: str
    command: Command


def reasons_beside_units(
    kernel: KernelTree, includers: Collection[str], changes: Changes, progress: Progress = SILENT
) -> list[Reason]:
    """Why changed headers cannot be live patched.

    Args:
        includers: every file that may include a changed one.
        changes: the changed files.

    Raises:
        BuildError: kbuild failed.
        CompileError: something does not compile with the fix.
    """
    jobs = [
        job
        for job in _jobs(kernel, includers, progress)
        if files_read(kernel, job.command).within(kernel.source) & changes.keys()
    ]
    if not jobs:
        return []
    with (
        progress.step("compare what assembly and vDSO are made from"),
        shadow_of(kernel.source, changes) as shadow,
    ):
        differing = [job for job in jobs if _differs(kernel, job, shadow)]
    return [
        _reason(product, [job.path for job in differing if job.product is product], changes)
        for product in Product
        if any(job.product is product for job in differing)
    ]


def _reason(product: Product, paths: Sequence[str], changes: Changes) -> Reason:
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return Reason(
        str(product),
        ", ".join(sorted(changes)),
        f"{_MESSAGES[product]} ({shown})",
        "boot a kernel with the fix, or change .c files only",
    )


def _jobs(kernel: KernelTree, includers: Collection[str], progress: Progress) -> list[_Job]:
    architecture = environment_of(kernel)["SRCARCH"]
    # The files whose .s the top-level Kbuild turns into include/generated/*.h.
    offsets = {"kernel/bounds.c", "kernel/sched/rq-offsets.c"} & set(includers)
    offsets |= {f"arch/{architecture}/kernel/asm-offsets.c"} & set(includers)
    vdso_folder = f"arch/{architecture}/entry/vdso/"
    vdso = {path for path in includers if path.startswith(vdso_folder) and path.endswith(".c")}
    vdso -= {f"{vdso_folder}vdso2c.c", *units_among(kernel, vdso, progress)}
    assembly = units_among(kernel, [path for path in includers if path.endswith(".S")], progress)
    goals = {path: path.removesuffix(".c") + ".s" for path in offsets}
    goals |= {path: object_of(path) for path in vdso}
    goals |= {path: unit.target for path, unit in assembly.items()}
    if not goals:
        return []
    commands = descend(kernel, sorted(goals.values()), progress).commands
    return [
        _Job(_product(path, offsets, vdso), path, parse(commands[goal]))
        for path, goal in sorted(goals.items())
        if goal in commands
    ]


def _product(path: str, offsets: Collection[str], vdso: Collection[str]) -> Product:
    if path in offsets:
        return Product.OFFSETS
    return Product.VDSO if path in vdso else Product.ASSEMBLY


def _differs(kernel: KernelTree, job: _Job, shadow: Shadow) -> bool:
    """Whether what is made of the file differs: the text of assembly, else what is compiled."""
    if job.product is Product.ASSEMBLY:
        make = partial(preprocess, kernel, job.command)
        before, after = side_by_side([make, partial(make, shadow)])
        return _outside_markers(before) != _outside_markers(after)
    with tempfile.TemporaryDirectory(prefix="livegraft-special-") as folder:
        compiled = partial(_compiled, kernel, job)
        old, new = side_by_side(
            [
                partial(compiled, Path(folder, "before.out"), None),
                partial(compiled, Path(folder, "after.out"), shadow),
            ]
        )
    return old != new


def _outside_markers(text: str) -> list[str]:
    """The lines of a preprocessed text, without those that say where it comes from."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("# ")]


def _compiled(kernel: KernelTree, job: _Job, output: Path, shadow: Shadow | None) -> bytes:
    flags = ("-g0", *(_VDSO32_FLAGS if "/vdso32/" in job.path else ()))
    compile_unit(kernel, job.command, output=output, shadow=shadow, extra_flags=flags)
    made = output.read_bytes()
    if job.product is Product.OFFSETS:
        # include/linux/kbuild.h: DEFINE() writes '.ascii "->NAME value"'.
        return b"\n".join(line.strip() for line in made.splitlines() if b'"->' in line)
    return made
