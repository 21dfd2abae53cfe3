# SPDX-License-Identifier: GPL-2.0-or-later
"""Who keeps a transition from completing: the tasks that have not changed sides, and why.

The kernel's core does not list them. ``/proc/PID/task/TID/patch_state`` is -1 outside of a
transition, 0 for a task on the unpatched side and 1 on the patched side (include/linux/livepatch.h,
``KLP_PATCHED``); what a task is doing is then told by its stack. Both are for root only. The engine
has a list of its own (kmod/README.md, ``blockers``).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from livegraft.runtime import stacks
from livegraft.runtime.stacks import PROC, Code, Task


class Kind(StrEnum):
    """Why a task has not changed sides; the engine's words."""

    INSIDE = "inside"
    UNRELIABLE = "unreliable"
    RUNNING = "running"
    KERNEL = "kernel"
    UNKNOWN = "unknown"


MOVES = {
    Kind.INSIDE: "it has to leave that function: end what it waits for, or the task",
    Kind.UNRELIABLE: "it has to run on until its stack can be judged again",
    Kind.RUNNING: "the next interrupt in user mode, or its next sleep",
    Kind.KERNEL: "it has to leave the kernel: end what it waits for, or signal it",
    Kind.UNKNOWN: "the kernel's next look at it, within a second, or its leaving the kernel",
}
"""What would move a task."""


class Blocker(NamedTuple):
    """A task that has not changed sides.

    Args:
        pid: its process.
        tid: the thread itself.
        comm: its name.
        state: ``S (sleeping)`` and the like, from its status file.
        kind: why it has not.
        function: the changed function that it is inside of, or "" if none was seen on its stack:
            then it runs in user mode or its stack cannot be read reliably.
        stack: the functions on its kernel stack, the innermost first.
        waiting_ms: for how long it has been in the way, in milliseconds, if that is known.
    """

    pid: int
    tid: int
    comm: str
    state: str
    kind: Kind
    function: str
    stack: tuple[str, ...]
    waiting_ms: int | None = None

    def __str__(self) -> str:
        where = f" inside {self.function}" if self.function else ""
        thread = "" if self.tid == self.pid else f", tid {self.tid}"
        return f"{self.comm} (pid {self.pid}{thread}){where}"

    def as_json(self) -> dict[str, object]:
        """The blocker as it stands in documents."""
        return {
            "pid": self.pid,
            "tid": self.tid,
            "comm": self.comm,
            "state": self.state,
            "kind": self.kind.value,
            "function": self.function,
            "stack": list(self.stack),
            "waiting_ms": self.waiting_ms,
            "moves": MOVES[self.kind],
        }


class Sides(NamedTuple):
    """Where the tasks of a transition of the kernel's core are.

    Args:
        moved: how many have changed sides.
        blockers: those that have not.
    """

    moved: int
    blockers: tuple[Blocker, ...]


def sides(target: int, code: Code, waiting_ms: int | None = None, proc: Path = PROC) -> Sides:
    """Who is where in a transition of the kernel's core.

    Args:
        target: the side that all have to reach: 1 when patching, 0 when unpatching.
        code: what they have to leave.
        waiting_ms: since when they are in the way.
        proc: the process file system.
    """
    found: list[Blocker] = []
    moved = 0
    for each in stacks.tasks(proc):
        side = stacks.read(each.folder / "patch_state")
        moved += side == str(target)
        if side == str(1 - target):
            found.append(describe(each, code, waiting_ms))
    found.sort(key=lambda one: (not one.function, one.pid, one.tid))
    return Sides(moved, tuple(found))


def describe(task: Task, code: Code, waiting_ms: int | None = None) -> Blocker:
    """What a task that is in the way is doing, as far as its stack tells."""
    frames = task.frames()
    function = code.first_in(frames)
    state = task.state
    kind = Kind.UNKNOWN
    if function:
        kind = Kind.INSIDE
    elif state.startswith("R"):
        kind = Kind.RUNNING
    names = tuple(frame.name for frame in frames)
    return Blocker(task.pid, task.tid, task.comm, state, kind, function, names, waiting_ms)


def listed(text: str, proc: Path = PROC) -> list[Blocker]:
    """The engine's list, a line for each task: ``TID MILLISECONDS KIND SYMBOL``."""
    found = []
    for line in text.splitlines():
        tid, milliseconds, word, symbol = line.split(None, 3)
        kind = Kind(word)
        task = stacks.task(int(tid), proc)
        found.append(
            Blocker(
                task.pid,
                task.tid,
                task.comm,
                task.state,
                kind,
                stacks.frame(symbol).name if kind is Kind.INSIDE else "",
                tuple(frame.name for frame in task.frames()),
                int(milliseconds),
            )
        )
    return found
