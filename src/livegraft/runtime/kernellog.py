# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's log, read from /dev/kmsg, and what it says of transitions.

Format of a record: ``priority,sequence,microseconds,flags[,...];message``, continued by lines that
begin with a space. Source: Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

DEVICE = Path("/dev/kmsg")

RECORD_SIZE = 8192
"""Bytes, ``CONSOLE_EXT_LOG_MAX`` of kernel/printk: a record does not fit into less (EINVAL)."""

CORE = "livepatch: "
"""How the messages of the kernel's core begin."""

STARTING = r"livepatch: '([^']+)': starting (patching|unpatching) transition$"
COMPLETING = r"livepatch: '([^']+)': completing (patching|unpatching) transition$"
COMPLETE = r"livepatch: '([^']+)': (patching|unpatching) complete$"
"""kernel/livepatch/transition.c, ``klp_start_transition`` and ``klp_complete_transition``.

The middle one is a debug message: it is there after ``func klp_complete_transition +p`` was
written to /proc/dynamic_debug/control.
"""

FORCING = r"livepatch: forcing remaining tasks to the (?:un)?patched state$"
"""kernel/livepatch/transition.c, ``klp_force_transition``; it does not name the patch."""

NEWS = (
    r"livepatch: (enabling patch|'[^']+': (starting|completing) |'[^']+': \w+ complete)"
    r"|\w+: (loading out-of-tree module taints kernel\.$|tainting kernel with TAINT_LIVEPATCH$"
    r"|module verification failed: .* - tainting kernel$)"
)
"""Messages that tell what goes on and never why something failed.

The last three come with the first module of such a kind, whatever becomes of it
(kernel/module/main.c, ``load_module()`` and ``check_modinfo_livepatch()``).
"""


class Record(NamedTuple):
    """One message; ``microseconds`` since boot, on printk's clock."""

    microseconds: int
    message: str


class Transition(NamedTuple):
    """What the log says of one transition; times in microseconds since boot.

    Args:
        name: the patch.
        direction: ``patching`` or ``unpatching``.
        started: when it started.
        moved: when the last task had changed sides, or None if the log does not tell (see
            :data:`COMPLETING`). After undoing, ftrace then waits for RCU before it is complete.
        completed: when it was complete, or None.
    """

    name: str
    direction: str
    started: int
    moved: int | None
    completed: int | None

    @property
    def milliseconds(self) -> float | None:
        """How long it took, or None while it is not complete."""
        return None if self.completed is None else (self.completed - self.started) / 1000

    @property
    def tasks_milliseconds(self) -> float | None:
        """How long the tasks took, or None if the log does not tell."""
        return None if self.moved is None else (self.moved - self.started) / 1000


class KernelLog:
    """A reader of the kernel's log, beginning now or with what is still in the buffer.

    Where the log cannot be read (not root, no device) it is empty: it is evidence, not a need.
    """

    def __init__(self, *, from_start: bool = False, device: Path = DEVICE) -> None:
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_SET if from_start else os.SEEK_END)
        except OSError:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def complaints(self) -> list[str]:
        """The messages since the last call that may say why something failed."""
        return [each.message for each in self.read() if not re.match(NEWS, each.message)]

    def read(self) -> list[Record]:
        """The records since the last call."""
        return list(self._records())

    def _records(self) -> Iterator[Record]:
        while self._descriptor is not None:
            try:
                raw = os.read(self._descriptor, RECORD_SIZE)
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten under us: the next read goes on
                    continue
                return  # EAGAIN: no more for now
            if not raw:
                return
            record = parse_record(raw.decode("utf-8", "replace"))
            if record is not None:
                yield record


def parse_record(text: str) -> Record | None:
    """One record of /dev/kmsg; None for what is not one."""
    head, separator, rest = text.partition(";")
    fields = head.split(",")
    if not separator or len(fields) < 3 or not fields[2].isdigit():
        return None
    return Record(int(fields[2]), rest.split("\n", 1)[0])


def transitions(records: Iterable[Record], name: str | None = None) -> list[Transition]:
    """The transitions that a log tells of, in order; the last one may not be complete.

    A reversal starts a transition of the other direction; the reversed one stays incomplete.

    Args:
        records: of the kernel's log.
        name: only those of this patch.
    """
    found: list[Transition] = []
    for record in _of_core(records):
        if started := re.search(STARTING, record.message):
            found.append(Transition(started[1], started[2], record.microseconds, None, None))
            continue
        moved = re.search(COMPLETING, record.message)
        event = moved or re.search(COMPLETE, record.message)
        # The core has one transition at a time: it can only be the last one. A patch that could not
        # be applied is told of as "unpatching complete" without a start.
        if event is None or not found or (found[-1].name, found[-1].direction) != event.groups():
            continue
        if moved:
            found[-1] = found[-1]._replace(moved=record.microseconds)
        elif found[-1].completed is None:
            found[-1] = found[-1]._replace(completed=record.microseconds)
    return [each for each in found if name is None or each.name == name]


def was_forced(records: Iterable[Record], name: str) -> bool:
    """Whether a transition of a patch was forced, as far back as the log tells."""
    starting = ""
    forced = False
    for record in _of_core(records):
        if started := re.search(STARTING, record.message):
            starting = started[1]
        elif re.search(FORCING, record.message) and starting == name:
            forced = True
    return forced


def _of_core(records: Iterable[Record]) -> Iterator[Record]:
    """Few of a log's thousands: no expression has to look at the others."""
    return (each for each in records if CORE in each.message)


def wall_clock(microseconds: int) -> float:
    """Seconds since the epoch of a time of the log.

    printk's clock is near the monotonic one and, like it, stands still while the machine sleeps.
    """
    return time.time() - time.monotonic() + microseconds / 1e6
