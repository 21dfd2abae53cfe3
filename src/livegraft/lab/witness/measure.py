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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livegraft.lab.witness.changes import Change, apply, undo
from livegraft.lab.witness.driver import ENGINE, Patch, Stalled, counts, insert, loaded, tell
from livegraft.runtime.forecasting import PAUSE, Observation, outlook
from livegraft.runtime.model import ModelName
from livegraft.runtime.stacks import PROC, Code, tasks
from livegraft.runtime.urgency import FIRST

QUIET_SECONDS = 0.5
"""For how long the probe runs before a patch is loaded."""

BETWEEN_SECONDS = 0.1
"""Between loading and unloading: everybody calls the new version."""

SETTLE_SECONDS = 0.5
"""Between the load's beginning and the first look."""

CALLS = 100_000
LEAST_GAP_US = 100
MOST_LATE = 60.0
"""Seconds that a change which has to be taken back may take for that."""

LONG_SECONDS = 6.0
REVERSE_SECONDS = 0.3
REPLACING = "lgc_two"
"""The patch that replaces those that are stacked."""

SEEN = Path("/root/seen")
LEAST = 2
"""Repetitions that are made however long one takes."""


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


def cycle(request: Request, between: float = BETWEEN_SECONDS) -> dict[str, Change]:
    """Load and unload once; a change that does not end is taken back."""
    patch = Patch(request.patch, request.model)
    if request.counted:
        tell("v1")
    changes = {"apply": apply(patch, request.limit)}
    if changes["apply"].finished:
        time.sleep(between)
        if request.counted:
            tell("v0")
        changes["undo"] = undo(patch, request.limit)
    if request.counted:
        tell("v-1")  # what comes now, whatever it is, is nobody's promise
    _taken_back(patch)
    return changes


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
