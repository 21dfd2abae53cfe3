# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of objects of given sizes, made of real units of a kernel.

A pair is the sample fix's unit before and after the fix, linked (``ld -r``) with as many other
units of vmlinux as make the size, all compiled as ``livegraft build`` compiles them: the
distribution's command with a section per function and variable, without debug information. Nothing
is repeated: 20 MB are some 450 different units, which are compiled once (five minutes) and kept in
the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from livegraft.changeset import VMLINUX
from livegraft.elf import object as elf
from livegraft.elf.object import Binding
from livegraft.fix.fix import Fix
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.objects import Unit, units_among
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.run import run

FOLDERS = ("fs/proc", "mm", "block", "kernel", "net/core", "net/ipv4")
"""Where the units come from, in this order."""

_Sized = tuple[Path, int]
"""An object and its size in bytes."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two objects of one unit.

    Args:
        before: the original object.
        after: the patched one.
        size: the original's, in bytes.
    """

    before: Path
    after: Path
    size: int


def units(kernel: Kernel) -> Iterator[tuple[Unit, Path]]:
    """The units of vmlinux in :data:`FOLDERS` and their objects, compiled one folder at a time."""
    for name in FOLDERS:
        found = sorted((kernel.source / name).rglob("*.c"))
        paths = [str(path.relative_to(kernel.source)) for path in found]
        built = [each for each in units_among(kernel, paths).values() if each.object == VMLINUX]
        commands = learn(kernel, built)
        tasks = [
            partial(compile_original, kernel, command, Variant.SECTIONS)
            for command in commands.values()
        ]
        yield from zip(commands, (each.path for each in side_by_side(tasks)), strict=True)


def patched(kernel: Kernel, fix: Path, folder: Path) -> tuple[Path, Path]:
    """The only unit of a fix before and after it."""
    changes = Fix.load([fix]).apply(kernel.source)
    (unit,) = units_among(kernel, [str(path) for path in changes]).values()
    (command,) = learn(kernel, [unit]).values()
    after = folder / "after.o"
    with shadow_of(kernel.source, changes) as shadow:
        flags = Variant.SECTIONS.flags
        compile_unit(kernel, command, output=after, shadow=shadow, extra_flags=flags)
    return compile_original(kernel, command, Variant.SECTIONS).path, after


def pairs(kernel: Kernel, fix: Path, sizes: list[int], folder: Path) -> Iterator[Pair]:
    """Pairs of these sizes (bytes, rising), or a little larger: no unit is below 3 kB."""
    before, after = patched(kernel, fix, folder)
    source = _one_of_each_name(before, units(kernel))
    waiting: list[_Sized] = []
    for number, size in enumerate(sizes):
        made = [folder / f"{number}.{side}.o" for side in ("before", "after")]
        chosen: list[_Sized] = []
        # The linker joins sections and strings: how large it is shows when it is linked.
        while (missing := size - _linked(made[0], before, chosen)) > 0:
            while missing > 0:
                fitting = next((each for each in waiting if each[1] <= missing), None)
                if fitting is None:
                    if missing > size / 20 and (more := next(source, None)) is not None:
                        waiting.append(more)
                        continue
                    fitting = min(waiting, key=lambda each: each[1])
                waiting.remove(fitting)
                chosen.append(fitting)
                missing -= fitting[1]
        waiting = chosen + waiting
        _linked(made[1], after, chosen)
        yield Pair(made[0], made[1], made[0].stat().st_size)


def _linked(output: Path, first: Path, others: Iterable[_Sized]) -> int:
    """Link objects into one; its size in bytes."""
    run(["ld", "-r", "-o", output, first, *(path for path, _ in others)], timeout=60)
    return output.stat().st_size


def _one_of_each_name(first: Path, others: Iterator[tuple[Unit, Path]]) -> Iterator[_Sized]:
    """Objects with their sizes, without those that define a global name that was there already.

    Of a weak function and the one that is used, the linker would leave a nameless one.
    """
    known = _globals(first)
    for _, path in others:
        names = _globals(path)
        if path != first and known.isdisjoint(names):
            known |= names
            yield path, path.stat().st_size


def _globals(path: Path) -> set[str]:
    symbols = elf.read(path).symbols
    return {each.name for each in symbols if each.in_section and each.binding != Binding.LOCAL}


def moved(kernel: Kernel, folder: Path, count: int, largest: int) -> Iterator[Pair]:
    """Units as they are, and with an empty line at their beginning.

    Args:
        count: how many pairs.
        largest: bytes that an object may have.
    """
    small = [(u, path) for u, path in units(kernel) if path.stat().st_size <= largest][:count]
    changes = {unit.path: b"\n" + (kernel.source / unit.path).read_bytes() for unit, _ in small}
    commands = learn(kernel, [unit for unit, _ in small])
    with shadow_of(kernel.source, changes) as shadow:
        tasks = [
            partial(
                compile_unit,
                kernel,
                command,
                output=folder / f"moved-{number}.o",
                shadow=shadow,
                extra_flags=Variant.SECTIONS.flags,
            )
            for number, command in enumerate(commands.values())
        ]
        objects = side_by_side(tasks)
    for (_, before), after in zip(small, objects, strict=True):
        yield Pair(before, after.path, before.stat().st_size)
