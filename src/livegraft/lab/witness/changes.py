# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: a load or an unload, followed from the order to its end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from livegraft.lab.witness.driver import Patch
from livegraft.runtime.native import KICK_PAUSES
from livegraft.runtime.stacks import tasks

LOOK_SHARE = 10
"""How many times longer than a look the time before it has to be."""

SAMPLES = 60
"""Tasks over time are told for so many moments of a change."""

COUNTS = ("signalled", "interrupted", "restarted")


@dataclass(slots=True)
class Change:
    """How loading or unloading went.

    Args:
        finished: all tasks have changed sides in time.
        ms: from the order until then, or until it was given up.
        mostly_ms: until all but a hundredth, or all but one, had changed; None if they never had.
        total: tasks that had to.
        times: what the engine measured itself, microseconds; ``tries`` is a count.
        counts: sleepers that were signalled; system calls that ended or began again because of it.
        samples: milliseconds since the order, and how many tasks had not changed.
    """

    finished: bool = False
    ms: float = 0.0
    mostly_ms: float | None = None
    total: int = 0
    times: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[float, int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a cell's file."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "samples": [[round(ms, 2), left] for ms, left in thinned(self.samples)]
        }


def thinned(samples: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most :data:`SAMPLES` of them, the first and the last among them."""
    if len(samples) <= SAMPLES:
        return samples
    step = (len(samples) - 1) / (SAMPLES - 1)
    return [samples[round(number * step)] for number in range(SAMPLES)]


class Follower:
    """Follows a change of one patch from the order on.

    Args:
        patch: the payload.
        target: what ``patch_state`` has to become (native).
        limit: seconds that it may take.
        looks: whether the tasks are counted meanwhile. Under native that is a look at every task,
            which keeps a processor for as long as it takes: beside the probe nobody looks.

    A look may not become what is measured: it takes a tenth of the time at most, from the order on.
    """

    def __init__(self, patch: Patch, target: str, limit: float, looks: bool) -> None:
        self.patch, self.target, self.limit, self.looks = patch, target, limit, looks
        self.change = Change()
        self._states: list[str] = []
        cost = 0.0
        if looks and patch.model == "native":
            self._states = [f"{each.folder}/patch_state" for each in tasks()]
            before = time.monotonic()
            self._left()
            cost = time.monotonic() - before
        self.began = time.monotonic()
        self._next_look = self.began + LOOK_SHARE * cost

    def follow(self) -> Change:
        """Wait for its end, or until its time is over."""
        change = self.change
        pauses = iter(KICK_PAUSES)  # as the runtime does it; the core goes on by itself
        kick = self.began + next(pauses)
        while self.patch.changing:
            now = time.monotonic()
            if now - self.began > self.limit:
                if self.looks:
                    self._note()
                change.ms = (now - self.began) * 1000
                self._ask()
                return change
            if self.patch.model == "native" and now >= kick:
                self.patch.kick()
                kick = now + next(pauses, self.limit)
            if self.looks and now >= self._next_look:
                self._note()
            time.sleep(0.002 if self.patch.model == "native" else 0.0005)
        change.finished = True
        change.total = max(change.total, len(self._states))
        change.ms = (time.monotonic() - self.began) * 1000
        self._ask()
        if self.patch.model == "stop":
            change.samples = [(ms, change.total) for ms, _ in change.samples]
        change.samples.append((change.ms, 0))
        few = max(1, change.total // 100)
        change.mostly_ms = next(ms for ms, left in change.samples if left <= few)
        return change

    def _note(self) -> None:
        """How many tasks have not changed sides. Under stop that is all or none, and what the
        engine calls left are those that are in the way."""
        before = time.monotonic()
        if self.patch.model == "native":
            left, self.change.total = self._left(), len(self._states)
        else:
            try:
                left, moved = int(self.patch.read("left")), int(self.patch.read("moved"))
            except OSError:
                return
            self.change.total = left + moved
        self.change.samples.append(((before - self.began) * 1000, left))
        self._next_look = time.monotonic() + LOOK_SHARE * (time.monotonic() - before)

    def _left(self) -> int:
        """Tasks of the kernel's own core that have not changed sides; those that are born during a
        change begin on the side where all go."""
        moved = (self.target.encode(), b"-1", b"")
        return sum(_state(each) not in moved for each in self._states)

    def _ask(self) -> None:
        """What the engine tells of the change."""
        if self.patch.model == "native":
            return
        with suppress(OSError):
            lines = (line.split() for line in self.patch.read("times").splitlines())
            self.change.times = {name: int(value) for name, value in lines}
            self.change.counts = {name: int(self.patch.read(name)) for name in COUNTS}
            total = int(self.patch.read("left")) + int(self.patch.read("moved"))
            self.change.total = max(self.change.total, total)


def _state(path: str) -> bytes:
    """What a task's patch_state says, with the fewest calls; nothing of one that has ended."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 16).strip()
    except OSError:
        return b""
    finally:
        os.close(file)


def apply(patch: Patch, limit: float, *, looks: bool = True, **parameters: object) -> Change:
    """Load a payload and follow the change.

    Args:
        patch: which, and the model.
        limit: seconds that it may take.
        looks: whether the tasks are counted meanwhile (:class:`Follower`).
        parameters: of the module, beside the model.

    Raises:
        OSError: the kernel does not take it.
    """
    follower = Follower(patch, "1", limit, looks)
    patch.insert(**parameters)
    return follower.follow()


def undo(patch: Patch, limit: float, *, looks: bool = True) -> Change:
    """Order the undo and follow the change; one that is under way is reversed."""
    follower = Follower(patch, "0", limit, looks)
    patch.write("enabled", "0")
    return follower.follow()
