# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: how one model fares under one load.

``-m livegraft.lab.witness.measure REQUEST.json`` prints one JSON document. Each repetition is a
load and an unload without any probe, for the times, and another of both with the probe on every
processor (lgc_probe.c), for the pauses. What the request holds is told by :class:`Request`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livegraft.lab.witness.driver import ENGINE, Patch, Stalled, counts, insert, loaded, tell
from livegraft.runtime.forecasting import PAUSE, Observation, outlook
from livegraft.runtime.model import ModelName
from livegraft.runtime.stacks import PROC, Code, tasks
from livegraft.runtime.urgency import FIRST

KICK_SECONDS = 0.02
QUIET_SECONDS = 0.5
"""For how long the probe runs before a patch is loaded."""

BETWEEN_SECONDS = 0.1
"""Between loading and unloading: everybody calls the new version."""

SETTLE_SECONDS = 0.5
"""Between the load's beginning and the first look."""

CALLS = 100_000
LEAST_GAP_US = 100
LOOK_SHARE = 10
"""How many times longer than a look the time before it has to be."""

SAMPLES = 60
"""Tasks over time are told for so many moments of a change."""

MOST_LATE = 60.0
"""Seconds that a change which has to be taken back may take for that."""

LONG_SECONDS = 6.0
REVERSE_SECONDS = 0.3
REPLACING = "lgc_two"
"""The patch that replaces those that are stacked."""

SEEN = Path("/root/seen")
LEAST = 3
"""Repetitions that are made however long one takes."""

COUNTS = ("signalled", "interrupted", "restarted")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be measured.

    Args:
        model: the consistency model.
        patch: the payload: ``/ko/PATCH.ko``.
        load: words for the load (lgc_hammer.c); none: nothing runs.
        settings: commands for the target (lgc_target.c).
        repeat: how many repetitions.
        seconds: for the measurements of calls and for all repetitions; none is begun later, but
            for the first :data:`LEAST` of each.
        limit: seconds that a change may take; then it is taken back.
        functions: object and name of each function that the patch changes.
        looks: how many forecasts.
        look_seconds: for how long each looks.
        calls: whether what a call costs is measured.
        counted: whether the patch is one that counts which versions were met.
        kind: ``cycle``, or what else a repetition is (:data:`KINDS`).
        target: a module that has to be there besides.
        stack: how many copies of the patch are there before it is loaded.
    """

    model: str
    patch: str
    load: list[str]
    settings: list[str]
    repeat: int
    seconds: float
    limit: float
    functions: list[list[str]]
    looks: int
    look_seconds: float
    calls: bool
    counted: bool
    kind: str = "cycle"
    target: str = ""
    stack: int = 0


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
        change, kicked = self.change, 0.0
        while self.patch.changing:
            now = time.monotonic()
            if now - self.began > self.limit:
                if self.looks:
                    self._note()
                change.ms = (now - self.began) * 1000
                self._ask()
                return change
            if self.patch.model == "native" and now - kicked > KICK_SECONDS:
                kicked = now
                self.patch.kick()
            if self.looks and now >= self._next_look:
                self._note()
            time.sleep(0.002 if self.patch.model == "native" else 0.0005)
        change.finished = True
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


def cycle(request: Request, between: float = BETWEEN_SECONDS) -> dict[str, Change]:
    """Load and unload once; a change that does not end is taken back."""
    patch = Patch(request.patch, request.model)
    if request.counted:
        tell("v1")
    applied = apply(patch, request.limit)
    if not applied.finished:
        _taken_back(patch)
        return {"apply": applied}
    time.sleep(between)
    if request.counted:
        tell("v0")
    undone = undo(patch, request.limit)
    _taken_back(patch)
    if request.counted:
        tell("v-1")
    return {"apply": applied, "undo": undone}


def _taken_back(patch: Patch) -> None:
    patch.write("enabled", "0")
    patch.settled(MOST_LATE)
    patch.gone(MOST_LATE)


def reversed_cycle(request: Request) -> dict[str, Change]:
    """Load, and undo while a task is in the way."""
    patch = Patch(request.patch, request.model)
    patch.insert()
    time.sleep(REVERSE_SECONDS)
    under_way = patch.changing
    undone = undo(patch, request.limit)
    _taken_back(patch)
    if not under_way:
        raise RuntimeError("nothing was in the way: the change was over before it was undone")
    return {"undo": undone}


def replacing_cycle(request: Request) -> dict[str, Change]:
    """Load a patch that replaces all that are stacked."""
    with stacked(request):
        patch = Patch(REPLACING, request.model)
        if request.model == "native":
            applied = apply(patch, request.limit, replace=1)
        else:
            (ENGINE / "options").write_text(f"{patch.name} replace\n")
            applied = apply(patch, request.limit)
    undone = undo(patch, request.limit)
    _taken_back(patch)
    return {"apply": applied, "undo": undone}


KINDS = {"cycle": cycle, "reversed": reversed_cycle, "replacing": replacing_cycle}


@contextmanager
def stacked(request: Request) -> Iterator[None]:
    """Copies of the patch that are loaded one on top of the other for as long as the context lasts.

    A copy is the same module by another name.
    """
    content = Path(f"/ko/{request.patch}.ko").read_bytes()
    copies = []
    for number in range(request.stack):
        name = f"{number:x}".rjust(len(request.patch), "s")
        path = Path(f"/ko/{name}.ko")
        path.write_bytes(content.replace(request.patch.encode(), name.encode()))
        copies.append(Patch(name, request.model))
        applied = apply(copies[-1], MOST_LATE)
        path.unlink()
        if not applied.finished:
            raise RuntimeError(f"{name} of the stack is not applied after {MOST_LATE:g} s")
    yield
    for patch in reversed(copies):
        _taken_back(patch)


class Probe:
    """The probe, running on every processor."""

    def __init__(self) -> None:
        words = ["/root/probe", str(LEAST_GAP_US)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the probe did not start")

    def gaps(self) -> list[tuple[int, str, float, float]]:
        """End it: processor, kind, beginning and end of each gap, on the monotonic clock."""
        out, _ = self._process.communicate()
        found = []
        for line in out.decode().splitlines():
            cpu, kind, began, length = line.split()
            start = float(began) / 1e9
            found.append((int(cpu), kind, start, start + float(length) / 1e9))
        return found


def longest(
    gaps: list[tuple[int, str, float, float]], begin: float, end: float
) -> dict[str, float]:
    """The longest gaps of a span of time, milliseconds; of one that lies in it in part, that part.

    Whoever begins the next span makes such a gap, and it is none of this one.

    Returns:
        ``user`` and ``syscall``: of any processor's probe, in user mode and in a system call;
        ``every``: of the probe that was kept from running the least.
    """
    by_cpu = dict.fromkeys(os.sched_getaffinity(0), 0.0)
    kinds = {"u": 0.0, "s": 0.0}
    for cpu, kind, start, stop in gaps:
        length = (min(stop, end) - max(start, begin)) * 1000
        if length > 0:
            by_cpu[cpu] = max(by_cpu[cpu], length)
            kinds[kind] = max(kinds[kind], length)
    return {"user": kinds["u"], "syscall": kinds["s"], "every": min(by_cpu.values())}


def probed(request: Request) -> dict[str, dict[str, float]]:
    """Load and unload once while the probe runs: the longest gaps before, and meanwhile."""
    patch = Patch(request.patch, request.model)
    probe = Probe()
    moments = [time.monotonic()]
    time.sleep(QUIET_SECONDS)
    moments.append(time.monotonic())
    try:
        applied = apply(patch, request.limit, looks=False)
        moments.append(time.monotonic())
        spans = {"quiet": (moments[0], moments[1]), "apply": (moments[1], moments[2])}
        if applied.finished:
            time.sleep(BETWEEN_SECONDS)
            began = time.monotonic()
            undo(patch, request.limit, looks=False)
            spans["undo"] = (began, time.monotonic())
    finally:
        gaps = probe.gaps()
    _taken_back(patch)
    return {name: longest(gaps, *span) for name, span in spans.items()}


def forecasts(request: Request) -> list[dict[str, Any]]:
    """What ``forecast`` says of this model, some times; fewer where a look takes long."""
    code = Code(frozenset((owner, name) for owner, name in request.functions))
    found: list[dict[str, Any]] = []
    first = time.monotonic()
    for _ in range(request.looks):
        if found and time.monotonic() - first > LONG_SECONDS:
            break
        observation = Observation(code, PROC)
        began = time.monotonic()
        while len(observation.times) < 2 or time.monotonic() - began < request.look_seconds:
            observation.look()
            time.sleep(PAUSE)
        said = outlook(observation, ModelName(request.model), True)
        found.append(
            {
                "chance": said.chance,
                "median_ms": said.median_ms,
                # The last start is in the middle: so much time is there for each, on average.
                "horizon_ms": (time.monotonic() - began) * 750,
            }
        )
    return found


def within(request: Request, end: float) -> Iterator[int]:
    """The numbers of all repetitions, as far as there is time."""
    for number in range(request.repeat):
        if number >= LEAST and time.monotonic() > end:
            break
        yield number


def call_costs(model: str, times: Iterable[int]) -> dict[str, list[float]]:
    """Nanoseconds of a call of a function of lgb_target, unpatched and patched, each time."""
    folder = Path("/sys/module/lgb_target/parameters")

    def cost() -> float:
        (folder / "calls").write_text(str(CALLS))
        return int((folder / "ns").read_text()) / CALLS

    found: dict[str, list[float]] = {"plain": [], "patched": []}
    patch = Patch("lgb_patch_1", model)
    for _ in times:
        found["plain"].append(cost())
        apply(patch, MOST_LATE)
        found["patched"].append(cost())
        _taken_back(patch)
    return found


def missing(model: str) -> str:
    """Why this kernel does not have a model; "" if it has it."""
    if model == "native":
        return ""
    for line in (ENGINE / "models").read_text().splitlines():
        name, answer, *reason = line.split(None, 2)
        if name == model:
            return "" if answer == "yes" else " ".join(reason) or "the engine says no"
    return "the engine does not know it"


def seen() -> int:
    """System calls of the load that have ended with EINTR."""
    try:
        return int.from_bytes(SEEN.read_bytes(), "little")
    except OSError:
        return 0


def repetitions(request: Request, end: float) -> Iterator[dict[str, Any]]:
    """Repeat what the request asks for: with the probe only what is loaded and unloaded plainly."""
    plain = request.kind == "cycle"
    for _ in within(request, end):
        before = seen()
        changes = KINDS[request.kind](request)
        sample: dict[str, Any] = {name: each.as_json() for name, each in changes.items()}
        sample["seen_eintr"] = seen() - before
        yield sample | {"pauses": probed(request) if plain else {}}


def measure(request: Request) -> dict[str, Any]:
    """All of a cell."""
    if why := missing(request.model):
        return {"unavailable": why}
    if request.target:
        insert(request.target)
    document: dict[str, Any] = {"repetitions": [], "stalled": ""}
    end = time.monotonic() + request.seconds
    if request.calls:
        insert("lgb_target")
        document["calls"] = call_costs(request.model, within(request, end))
    with loaded(request.load) if request.load else nullcontext():
        time.sleep(SETTLE_SECONDS if request.load else 0)
        for command in request.settings:
            tell(command)
        document["tasks"] = sum(1 for _ in tasks())
        document["forecasts"] = forecasts(request)
        tell("r0")
        try:
            with stacked(request) if request.kind == "cycle" else nullcontext():
                document["repetitions"].extend(repetitions(request, end))
        except Stalled as error:
            document["stalled"] = str(error)
        document["counts"] = counts() if request.counted else {}
    return document


def main() -> None:
    """Measure and print."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    # As livegraft.runtime does it (urgency.py); the load stays as it is.
    os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    json.dump(measure(request), sys.stdout)


if __name__ == "__main__":
    main()
