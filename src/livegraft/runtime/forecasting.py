# SPDX-License-Identifier: GPL-2.0-or-later
"""How a transition would go: every stack is looked at for some seconds before anything is loaded.

What was seen is played through. For each moment of the first half of the looks it is asked: had the
patch been loaded then, at which later look would the last task have changed sides?

- ``native`` and ``hybrid``: when each task that was inside the patched functions at that moment has
  been seen outside. Others change at once, new tasks are born on the new side.
- ``stop``: at the first look with no task inside at all.
- ``task``: when each user task has been seen to leave the kernel, or is one that sleeps so that a
  signal gets it out; kernel threads as under ``hybrid``.

A cold part counts as its function. That is not what the kernel's core looks at, but livegraft does
(:mod:`livegraft.runtime.cold`). A look takes a while and sees each task at a moment of its own, so
this is a forecast and no promise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from livegraft.runtime import stacks
from livegraft.runtime.model import ModelName
from livegraft.runtime.offers import models
from livegraft.runtime.payload import Payload
from livegraft.runtime.stacks import PROC, Code, Task

SECONDS = 5.0
"""For how long to look, unless told otherwise."""

PAUSE = 0.02
"""Seconds between two looks."""

MOST = 10
"""Tasks that are named for each model."""


class Sleeper:
    """A task, and what was seen of it.

    Args:
        task: the task.
        comm: its name.
        stays: whether it never leaves the kernel by itself: a kernel thread.

    Attributes:
        stack: where it was last seen inside.
        inside: the looks at which it was inside the patched functions, and where.
        stuck: the looks at which it was in the kernel as at the look before; the value says whether
            a signal would wake it.
    """

    def __init__(self, task: Task, comm: str, stays: bool) -> None:
        self.task = task
        self.comm = comm
        self.stays = stays
        self.stack: tuple[str, ...] = ()
        self.inside: dict[int, str] = {}
        self.stuck: dict[int, bool] = {}

    def as_json(self) -> dict[str, object]:
        """As it stands in the document of ``forecast``."""
        return {
            "pid": self.task.pid,
            "tid": self.task.tid,
            "comm": self.comm,
            "kernel_thread": self.stays,
            "function": next(reversed(self.inside.values()), ""),
            "looks_inside": len(self.inside),
            "stack": list(self.stack),
        }


class Outlook(NamedTuple):
    """What is to be expected of a model.

    Args:
        model: the model.
        available: whether this machine has it.
        chance: the share of moments from which it would have come to its end within the looks.
        median_ms: how soon, the median of those moments; None if there was none.
        longest_ms: the longest of them.
        blockers: tasks because of which it would not.
        signals: user tasks that it would have to signal (``task``).
    """

    model: ModelName
    available: bool
    chance: float
    median_ms: float | None
    longest_ms: float | None
    blockers: tuple[Sleeper, ...]
    signals: int

    def as_json(self) -> dict[str, object]:
        """As it stands in the document of ``forecast``."""
        return {
            "model": self.model.value,
            "available": self.available,
            "chance": round(self.chance, 3),
            "median_ms": self.median_ms,
            "longest_ms": self.longest_ms,
            "blockers": [each.as_json() for each in self.blockers[:MOST]],
            "signals": self.signals,
        }


class Forecast(NamedTuple):
    """What was seen, and what is to be expected.

    Args:
        name: the patch.
        seconds: for how long was looked.
        looks: how often.
        tasks: how many tasks there were at the last look.
        outlooks: one for each model.
    """

    name: str
    seconds: float
    looks: int
    tasks: int
    outlooks: tuple[Outlook, ...]

    def as_json(self) -> dict[str, object]:
        """The document of ``forecast``."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "looks": self.looks,
            "tasks": self.tasks,
            "models": [each.as_json() for each in self.outlooks],
        }


class Observation:
    """The looks at all tasks.

    Args:
        code: the functions that are to be patched.
        proc: the process file system.
    """

    def __init__(self, code: Code, proc: Path = PROC) -> None:
        self.code = code
        self.proc = proc
        self.times: list[float] = []
        self.present: list[set[int]] = []
        self.seen: dict[int, Sleeper] = {}
        self._calls: dict[int, str] = {}

    def look(self) -> None:
        """Look at every task once."""
        number = len(self.times)
        self.times.append(time.monotonic())
        present = set()
        for task in stacks.tasks(self.proc):
            present.add(task.tid)
            sleeper = self.seen.get(task.tid)
            if sleeper is None:
                sleeper = Sleeper(task, task.comm, task.is_kernel_thread)
                self.seen[task.tid] = sleeper
            self._note(sleeper, number)
        self.present.append(present)

    def _note(self, sleeper: Sleeper, number: int) -> None:
        task = sleeper.task
        frames = task.frames()
        function = self.code.first_in(frames)
        if function:
            sleeper.inside[number] = function
            sleeper.stack = tuple(each.name for each in frames)
        if sleeper.stays:
            return
        # The call's number, arguments, stack and instruction pointer; "running" if it is on a CPU.
        call = stacks.read(task.folder / "syscall")
        if call and call != "running" and self._calls.get(task.tid) == call:
            sleeper.stuck[number] = not task.state.startswith("D")
        self._calls[task.tid] = call

    def moved_at(self, sleeper: Sleeper, start: int, by_leaving: bool) -> int | None:
        """The first look from a start on at which a task would have changed sides, or None."""
        for number in range(start, len(self.times)):
            if sleeper.task.tid not in self.present[number]:
                return number
            if by_leaving and not sleeper.stays:
                if sleeper.stuck.get(number, True) and (number > start or number in sleeper.stuck):
                    return number  # it has left the kernel since, or a signal gets it out
            elif number not in sleeper.inside:
                return number
        return None

    def flipped_at(self, start: int) -> int | None:
        """The first look from a start on with no task inside, or None."""
        busy = {number for each in self.seen.values() for number in each.inside}
        return next((each for each in range(start, len(self.times)) if each not in busy), None)


def forecast(
    path: Path, *, seconds: float = SECONDS, foreign: bool = False, proc: Path = PROC
) -> Forecast:
    """Look at all stacks for some seconds, and say how each model would fare.

    Args:
        path: the live patch's file; it is not loaded.
        seconds: for how long to look.
        foreign: accept a live patch that livegraft did not build, of which no function is known.
        proc: the process file system.

    Raises:
        PatchError: not root; it is not a live patch.
    """
    stacks.require_readable("forecast", proc)
    payload = Payload.read(path, foreign=foreign)
    observation = Observation(Code(frozenset(payload.functions)), proc)
    began = time.monotonic()
    while True:
        observation.look()
        if len(observation.times) > 1 and time.monotonic() - began >= seconds:
            break
        time.sleep(PAUSE)
    offers = {each.name: each.available for each in models()}
    return Forecast(
        payload.name,
        time.monotonic() - began,
        len(observation.times),
        len(observation.present[-1]),
        tuple(outlook(observation, name, offers[name]) for name in ModelName),
    )


def outlook(observation: Observation, model: ModelName, available: bool) -> Outlook:
    """What is to be expected of a model.

    Args:
        observation: what was seen.
        model: the model.
        available: whether this machine has it.
    """
    by_leaving = model is ModelName.TASK
    starts = range(max(1, len(observation.times) // 2))
    spent: list[float] = []
    blockers: dict[int, Sleeper] = {}
    for start in starts:
        there = [observation.seen[tid] for tid in sorted(observation.present[start])]
        if model is ModelName.STOP:
            end = observation.flipped_at(start)
            if end is None:
                last = len(observation.times) - 1
                late = [each for each in there if {start, last} & each.inside.keys()]
                blockers |= {each.task.tid: each for each in late}
        else:
            ends = {each: observation.moved_at(each, start, by_leaving) for each in there}
            late = [each for each, moved in ends.items() if moved is None]
            blockers |= {each.task.tid: each for each in late}
            end = None if late else max([start, *(each for each in ends.values() if each)])
        if end is not None:
            spent.append((observation.times[end] - observation.times[start]) * 1000)
    spent.sort()
    return Outlook(
        model=model,
        available=available,
        chance=len(spent) / len(starts),
        median_ms=round(spent[len(spent) // 2], 1) if spent else None,
        longest_ms=round(spent[-1], 1) if spent else None,
        blockers=tuple(sorted(blockers.values(), key=_most_inside)),
        signals=_signals(observation.seen.values(), len(observation.times)) if by_leaving else 0,
    )


def _most_inside(sleeper: Sleeper) -> tuple[int, int]:
    return -len(sleeper.inside), sleeper.task.tid


def _signals(tasks: Iterable[Sleeper], looks: int) -> int:
    """The user tasks that were in one and the same call at every look but their first."""
    return sum(
        not each.stays and len(each.stuck) >= looks - 1 > 0 and all(each.stuck.values())
        for each in tasks
    )
