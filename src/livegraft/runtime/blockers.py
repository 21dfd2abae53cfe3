# SPDX-License-Identifier: GPL-2.0-or-later
"""Who keeps a transition from completing: the tasks that have not changed sides, and why.

``/proc/PID/task/TID/patch_state`` is -1 outside of a transition, 0 for a task on the unpatched side
and 1 on the patched side (include/linux/livepatch.h, ``KLP_PATCHED``). Both it and ``stack`` are
for root only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from livegraft.runtime import proctext


@dataclass(frozen=True, slots=True)
class Blocker:
    """A task that has not changed sides.

    Args:
        pid: its process.
        tid: the thread itself.
        comm: its name.
        state: ``S (sleeping)`` and the like, from its status file.
        function: the changed function that it is inside of, or "" if none was seen on its stack:
            then it runs in user mode or its stack cannot be read reliably.
        stack: the functions on its kernel stack, the innermost first.
    """

    pid: int
    tid: int
    comm: str
    state: str
    function: str
    stack: tuple[str, ...]

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
            "function": self.function,
            "stack": list(self.stack),
        }


def find(
    target: int, functions: Iterable[str], module: str = "", proc: Path = Path("/proc")
) -> list[Blocker]:
    """The tasks that are still on the other side.

    Args:
        target: the side that all have to reach: 1 when patching, 0 when unpatching.
        functions: the functions that change, to be looked for on stacks.
        module: the patch's module. When unpatching, its code is what has to be left, whatever its
            functions are called.
        proc: the process file system.
    """
    wanted = frozenset(functions)
    found = []
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            threads = list((process / "task").iterdir())
        except OSError:
            continue  # it has ended
        for thread in threads:
            if _read(thread / "patch_state") == str(1 - target):
                found.append(_blocker(int(process.name), thread, wanted, module))
    return sorted(found, key=lambda each: (not each.function, each.pid, each.tid))


def _blocker(pid: int, thread: Path, functions: frozenset[str], module: str) -> Blocker:
    frames = [_frame(line) for line in _read(thread / "stack").splitlines()]
    inside = next(
        (name for name, owner in frames if _plain(name) in functions or owner == module), ""
    )
    stack = tuple(name for name, _ in frames)
    state = next(
        (
            line.partition(":")[2].strip()
            for line in _read(thread / "status").splitlines()
            if line.startswith("State:")
        ),
        "",
    )
    comm = proctext.printable(_read(thread / "comm"))
    return Blocker(pid, int(thread.name), comm, state, inside, stack)


def _frame(line: str) -> tuple[str, str]:
    """Name and module of ``[<0>] msleep+0x29/0x30`` or ``[<0>] doze+0x1/0x9 [module]``."""
    words = line.split()
    name = words[1].partition("+")[0] if len(words) > 1 else line.strip()
    return name, words[2].strip("[]") if len(words) > 2 else "vmlinux"


def _plain(frame: str) -> str:
    """A cold part counts as its function."""
    return frame.removesuffix(".cold")


def _read(path: Path) -> str:
    try:
        return proctext.read(path)
    except OSError:
        return ""
