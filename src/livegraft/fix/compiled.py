# SPDX-License-Identifier: GPL-2.0-or-later
"""The units that a fix touches, compiled before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from livegraft.errors import Reason
from livegraft.fix.bodies import changes_declarations
from livegraft.fix.reach import is_reached
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import Object, Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.genksyms import export_reasons
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree
from livegraft.progress import Progress

FEW_UNITS = 4
"""As many units are compiled for the proof without waiting for the comparison."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A unit, compiled before and after a fix for the comparison.

    Args:
        unit: the unit.
        command: how the distribution compiled it.
        before: the unchanged one, in the cache.
        after: the object with the fix.
    """

    unit: Unit
    command: Command
    before: Object
    after: Path

    @property
    def extracted(self) -> Path:
        """Where the object of what is cut out of the unit belongs."""
        return self.after.with_suffix(".extracted.o")


def compile_touched(
    kernel: KernelTree,
    commands: Mapping[Unit, Command],
    shadow: Shadow,
    folder: Path,
    progress: Progress,
) -> tuple[list[Compiled], list[Reason]]:
    """Compile the units of a fix, those aside that it cannot reach.

    A fix of more than function bodies is compiled with debug information, for its types are judged.

    Args:
        commands: of all units that read a changed file.
        shadow: the source with the fix.
        folder: for the objects.

    Returns:
        The units, and why exported symbols speak against the fix.

    Raises:
        CompileError: a unit does not compile.
    """
    variant = Variant.TYPES
    if not changes_declarations(shadow.changes, kernel.source):
        variant = Variant.SECTIONS
        commands = _reached(kernel, commands, shadow, progress)
    with progress.step("compile"):
        compiled = _compile_all(kernel, commands, variant, shadow, folder)
        return compiled, _exports(kernel, commands, variant, shadow, folder)


def _reached(
    kernel: KernelTree, commands: Mapping[Unit, Command], shadow: Shadow, progress: Progress
) -> dict[Unit, Command]:
    """Those units whose objects can depend on a fix of nothing but function bodies."""
    asked = [unit for unit in commands if unit.path not in shadow.changes]
    if not asked:
        return dict(commands)
    with progress.step("find out who uses what changed", len(asked)):
        tasks = [partial(is_reached, kernel, commands[unit], shadow) for unit in asked]
        answers = dict(zip(asked, side_by_side(tasks), strict=True))
    return {unit: each for unit, each in commands.items() if answers.get(unit, True)}


def _compile_all(
    kernel: KernelTree,
    commands: Mapping[Unit, Command],
    variant: Variant,
    shadow: Shadow,
    folder: Path,
) -> list[Compiled]:
    """All units before and after the fix, on all cores."""
    tasks: list[Callable[[], Object]] = []
    for number, command in enumerate(commands.values()):
        output = folder / f"{number}.o"
        after = partial(compile_unit, shadow=shadow, extra_flags=variant.flags)
        tasks += [
            partial(after, kernel, command, output=output),
            partial(compile_original, kernel, command, variant),
        ]
    # Few units are proved most often: a core that is free can begin with it.
    if len(commands) <= FEW_UNITS:
        plain = [
            partial(compile_original, kernel, each, Variant.PLAIN) for each in commands.values()
        ]
        tasks += plain
    objects = iter(side_by_side(tasks))
    return [
        Compiled(unit, command, before=before, after=after.path)
        for (unit, command), after, before in zip(commands.items(), objects, objects, strict=False)
    ]


def _exports(
    kernel: KernelTree,
    commands: Mapping[Unit, Command],
    variant: Variant,
    shadow: Shadow,
    folder: Path,
) -> list[Reason]:
    """Exported symbols whose types the fix changes; it cannot, where types are not looked at."""
    if variant is not Variant.TYPES:
        return []
    tasks = [
        partial(export_reasons, kernel, command, folder / str(number), shadow)
        for number, command in enumerate(commands.values())
    ]
    return [reason for reasons in side_by_side(tasks) for reason in reasons]
