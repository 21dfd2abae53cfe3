# SPDX-License-Identifier: GPL-2.0-or-later
"""The stacks of all tasks, and which code is on them.

``/proc/PID/task/TID/stack`` has a line ``[<0>] msleep+0x29/0x30`` or ``[<0>] f+0x1/0x9 [module]``
for each frame, the innermost first; it is for root only (fs/proc/base.c, ``proc_pid_stack``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime import proctext

PROC = Path("/proc")

VMLINUX = "vmlinux"

COLD = ".cold"
"""What the compiler calls a function's unlikely part: ``f.cold``, of older ones ``f.cold.3``."""

PF_KTHREAD = 0x00200000
"""include/linux/sched.h; ``flags`` is the ninth word of a task's ``stat``."""


class Frame(NamedTuple):
    """A function on a stack, and whose it is: a module's or ``vmlinux``'s."""

    name: str
    owner: str

    @property
    def function(self) -> str:
        """Its name; a cold part counts as its function."""
        return self.name.partition(COLD)[0]


class Code(NamedTuple):
    """Code that tasks may have to leave.

    Args:
        functions: object and name of each function; its cold parts belong to it.
        modules: modules all of whose code is meant.
        cold_only: of all that, only cold parts are meant.
    """

    functions: frozenset[tuple[str, str]]
    modules: frozenset[str] = frozenset()
    cold_only: bool = False

    def first_in(self, frames: Iterable[Frame]) -> str:
        """The innermost frame that is in this code, or "" if none is."""
        return next(
            (frame.name for frame in frames if self._holds(frame)),
            "",
        )

    def _holds(self, frame: Frame) -> bool:
        if self.cold_only and COLD not in frame.name:
            return False
        return frame.owner in self.modules or (frame.owner, frame.function) in self.functions


class Task(NamedTuple):
    """A task.

    Args:
        pid: its process.
        tid: the thread itself.
        folder: its directory in the process file system.
    """

    pid: int
    tid: int
    folder: Path

    @property
    def comm(self) -> str:
        """Its name."""
        return proctext.printable(read(self.folder / "comm"))

    @property
    def state(self) -> str:
        """``S (sleeping)`` and the like."""
        for line in read(self.folder / "status").splitlines():
            if line.startswith("State:"):
                return line.partition(":")[2].strip()
        return ""

    @property
    def is_kernel_thread(self) -> bool:
        """Whether it never is in user mode."""
        # The name stands in parentheses and may hold any character.
        words = read(self.folder / "stat").rpartition(")")[2].split()
        return len(words) > 6 and bool(int(words[6]) & PF_KTHREAD)

    def frames(self) -> list[Frame]:
        """Its kernel stack, the innermost function first; empty if it cannot be read."""
        return [frame(line) for line in read(self.folder / "stack").splitlines()]


def require_readable(action: str, proc: Path = PROC) -> None:
    """Refuse early what is only for who may see stacks.

    Raises:
        PatchError: the kernel hides them.
    """
    try:
        (proc / "self/stack").read_bytes()
    except OSError as error:
        raise PatchError(
            action, f"the kernel does not show any stacks: {error.strerror}", "run as root"
        ) from error


def tasks(proc: Path = PROC) -> Iterator[Task]:
    """All tasks that are there."""
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            threads = list((process / "task").iterdir())
        except OSError:
            continue  # it has ended
        for thread in threads:
            yield Task(int(process.name), int(thread.name), thread)


def task(tid: int, proc: Path = PROC) -> Task:
    """The task of a number, which need not be there any more."""
    pid = tid
    for line in read(proc / str(tid) / "status").splitlines():
        if line.startswith("Tgid:"):
            pid = int(line.partition(":")[2])
    return Task(pid, tid, proc / str(pid) / "task" / str(tid))


def inside(code: Code, proc: Path = PROC) -> list[tuple[Task, list[Frame]]]:
    """The tasks whose stack holds any of some code, and their stacks."""
    found = []
    for each in tasks(proc):
        frames = each.frames()
        if code.first_in(frames):
            found.append((each, frames))
    return found


def frame(line: str) -> Frame:
    """A line of a stack, or a symbol as ``%pS`` prints it."""
    words = line.removeprefix("[<0>] ").split()
    name = words[0].partition("+")[0] if words else ""
    return Frame(name, words[1].strip("[]") if len(words) > 1 else VMLINUX)


def read(path: Path) -> str:
    """A file's text, or "" if it is not there any more or hidden."""
    try:
        return proctext.read(path)
    except OSError:
        return ""
