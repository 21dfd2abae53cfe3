# SPDX-License-Identifier: GPL-2.0-or-later
"""The units that a fix touches, compiled before and after it, some at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from livegraft.errors import Reason
from livegraft.fix.reach import Reach
from livegraft.jobs import in_order
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import Object, Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.genksyms import export_reasons
from livegraft.kbuild.objects import Unit
from livegraft.kbuild.shadow import Shadow
from livegraft.kbuild.target import KernelTree
from livegraft.progress import Progress

FEW_UNITS = 4
"""As many units are compiled for the proof without waiting for the comparison."""

IN_A_BATCH = 16
"""As many units are judged together: a header that thousands read needs no more memory than one
that twenty read, and what is refused is refused soon."""


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Some units of a fix.

    Args:
        compiled: those of them that can differ.
        count: how many they are; the object of a unit that only reads a changed header may have
            come out the same.
        left: how many units are still to come.
        exports: why exported symbols speak against the fix.
    """

    compiled: Sequence[Compiled]
    count: int
    left: int
    exports: Sequence[Reason] = ()


@dataclass(frozen=True, slots=True)
class Reached:
    """The units that a fix can change.

    Args:
        commands: how each is compiled, the fix's own units first.
        own: how many of them the fix changes itself; the others read a changed header.
        variant: how they are compiled for the comparison: a fix of more than function bodies with
            debug information, for its types are judged.
    """

    commands: Mapping[Unit, Command]
    own: int
    variant: Variant


def find_reached(
    kernel: KernelTree, commands: Mapping[Unit, Command], shadow: Shadow, progress: Progress
) -> Reached:
    """Put those units aside that read a changed header and use nothing of what changes in it.

    Args:
        commands: of all units that read a changed file.
        shadow: the source with the fix.

    Raises:
        CompileError: a unit cannot be preprocessed.
    """
    reach = Reach(kernel, shadow)
    own = {unit: each for unit, each in commands.items() if unit.path in shadow.changes}
    asked = {unit: each for unit, each in commands.items() if unit not in own}
    found = dict(own)
    if asked:
        began = time.monotonic()
        first = reach.reaches(next(iter(asked.values())))
        what = f"{len(asked)} units read what the fix changes; to see which of them use it"
        progress.foretell(what, len(asked) - 1, time.monotonic() - began)
        with progress.step("find out who uses what changed", len(asked)) as step:
            step.advance()
            tasks = (partial(reach.reaches, each) for each in islice(asked.values(), 1, None))
            answers = [first, *side_by_side(tasks, advance=step.advance)]
        found |= {
            unit: each
            for (unit, each), is_reached in zip(asked.items(), answers, strict=True)
            if is_reached
        }
    variant = Variant.SECTIONS if reach.only_bodies else Variant.TYPES
    return Reached(found, len(own), variant)


def compile_touched(
    kernel: KernelTree, reached: Reached, shadow: Shadow, folder: Path, progress: Progress
) -> Generator[Batch]:
    """Compile the units of a fix before and after it, on all cores.

    Whoever may leave early closes the iterator. The objects of a batch are removed when the next
    one is asked for.

    Args:
        shadow: the source with the fix.
        folder: for the objects.

    Raises:
        CompileError: a unit does not compile.
    """
    batches = list(_batches(reached))
    tasks = _tasks(kernel, reached, batches, shadow, folder)
    done = 0
    with closing(in_order(tasks)) as results:
        for number, batch in enumerate(batches):
            done += len(batch)
            place = folder / str(number)
            with progress.step("compile"):
                compiled = _compiled(batch, reached, shadow, results)
                if done == len(reached.commands):
                    list(results)  # the proof's, in the cache
                commands = {each.unit: each.command for each in compiled}
                exports = _exports(kernel, commands, reached.variant, shadow, place)
            yield Batch(compiled, len(batch), len(reached.commands) - done, exports)
            shutil.rmtree(place, ignore_errors=True)


def _batches(reached: Reached) -> Iterator[list[Unit]]:
    """The fix's own units belong together: what one newly defines another may call."""
    units = list(reached.commands)
    at = max(reached.own, IN_A_BATCH)
    if units:
        yield units[:at]
    while at < len(units):
        yield units[at : at + IN_A_BATCH]
        at += IN_A_BATCH


def _tasks(
    kernel: KernelTree,
    reached: Reached,
    batches: Sequence[Sequence[Unit]],
    shadow: Shadow,
    folder: Path,
) -> Iterator[Callable[[], Object]]:
    """Of each unit how it is compiled after and before the fix."""
    variant = reached.variant
    numbers = iter(range(len(reached.commands)))
    for place, batch in enumerate(batches):
        for unit in batch:
            command = reached.commands[unit]
            output = folder / str(place) / f"{next(numbers)}.o"
            flags = variant.flags
            yield partial(
                compile_unit, kernel, command, output=output, shadow=shadow, extra_flags=flags
            )
            yield partial(compile_original, kernel, command, variant)
    # Few units are proved most often: a core that is free can begin with it.
    if len(reached.commands) <= FEW_UNITS:
        for command in reached.commands.values():
            yield partial(compile_original, kernel, command, Variant.PLAIN)


def _compiled(
    batch: Sequence[Unit], reached: Reached, shadow: Shadow, results: Iterator[Object]
) -> list[Compiled]:
    """The units of a batch, those aside that only read a header and came out the same."""
    found = []
    for unit in batch:
        after, before = next(results), next(results)
        is_own = unit.path in shadow.changes
        if is_own or after.path.read_bytes() != before.path.read_bytes():
            found.append(Compiled(unit, reached.commands[unit], before=before, after=after.path))
    return found


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
        partial(export_reasons, kernel, command, folder / f"exports-{number}", shadow)
        for number, command in enumerate(commands.values())
    ]
    return [reason for reasons in side_by_side(tasks) for reason in reasons]
