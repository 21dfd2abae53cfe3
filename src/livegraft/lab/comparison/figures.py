# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of each cell, and how it comes out of what the guest has answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from livegraft.lab.comparison.statistics import Estimate, Statistic, estimate

Repetition = Mapping[str, Any]
Measured = Mapping[str, Any]
"""What one guest has answered."""

Guests = Sequence[Measured]
"""What all guests of a cell have answered."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a cell.

    Args:
        key: its name in the report.
        title: for people.
        unit: ``ms``, ``ns``, or empty for a count or a share.
        value: of a repetition; None if it has none.
        statistic: what is told of all repetitions.
    """

    key: str
    title: str
    unit: str
    value: Callable[[Repetition], float | None]
    statistic: Statistic = numpy.median


def _change(way: str, key: str) -> Callable[[Repetition], float | None]:
    """A member of a change that came to its end."""

    def value(repetition: Repetition) -> float | None:
        change = repetition.get(way)
        return change[key] if change and change["finished"] else None

    return value


def _time(way: str, name: str, per: float = 1000) -> Callable[[Repetition], float | None]:
    """One of the engine's own times of a change."""

    def value(repetition: Repetition) -> float | None:
        found = repetition.get(way, {}).get("times", {}).get(name)
        return None if found is None else found / per

    return value


def _pause(span: str, *kinds: str) -> Callable[[Repetition], float | None]:
    """The longest gap of the probe in a span of time."""

    def value(repetition: Repetition) -> float | None:
        found = repetition["pauses"].get(span)  # none where the probe did not run
        return None if found is None else max(found[kind] for kind in kinds)

    return value


def _count(name: str) -> Callable[[Repetition], float | None]:
    """A count of the engine's, of loading; the kernel's own core counts nothing."""

    def value(repetition: Repetition) -> float | None:
        found: float | None = repetition.get("apply", {}).get("counts", {}).get(name)
        return found

    return value


def _applied(repetition: Repetition) -> float | None:
    change = repetition.get("apply")
    return None if change is None else float(bool(change["finished"]))


def _seen(repetition: Repetition) -> float:
    return float(repetition["seen_eintr"])


FIGURES = {
    each.key: each
    for each in (
        Figure("applied", "applied within 10 s", "", _applied, numpy.mean),
        Figure("apply", "until all tasks run the new code", "ms", _change("apply", "ms")),
        Figure(
            "mostly",
            "until all tasks but one, or a hundredth, run the new code",
            "ms",
            _change("apply", "mostly_ms"),
        ),
        Figure("undo", "until all tasks run the old code again", "ms", _change("undo", "ms")),
        Figure("moving", "of loading, tasks changing sides", "ms", _time("apply", "move")),
        Figure("moving-back", "of unloading, tasks changing sides", "ms", _time("undo", "move")),
        Figure("held", "all processors held, loading", "ms", _time("apply", "pause")),
        Figure("tries", "looks at all stacks, loading", "", _time("apply", "tries", 1)),
        Figure(
            "gap-quiet",
            "longest pause of a task, before the load",
            "ms",
            _pause("quiet", "user", "syscall"),
        ),
        Figure(
            "gap-apply",
            "longest pause of a task, loading",
            "ms",
            _pause("apply", "user", "syscall"),
        ),
        Figure(
            "gap-undo",
            "longest pause of a task, unloading",
            "ms",
            _pause("undo", "user", "syscall"),
        ),
        Figure("gap-user", "the same in user mode, loading", "ms", _pause("apply", "user")),
        Figure(
            "gap-syscall", "the same in a system call, loading", "ms", _pause("apply", "syscall")
        ),
        Figure(
            "every-quiet",
            "pause that every processor had, before the load",
            "ms",
            _pause("quiet", "every"),
        ),
        Figure(
            "every-apply", "pause that every processor had, loading", "ms", _pause("apply", "every")
        ),
        Figure(
            "every-undo", "pause that every processor had, unloading", "ms", _pause("undo", "every")
        ),
        Figure("signalled", "sleepers that were signalled", "", _count("signalled")),
        Figure("restarted", "system calls that began again", "", _count("restarted")),
        Figure("interrupted", "system calls that ended with EINTR", "", _count("interrupted")),
        Figure("seen", "of these, seen by the programs", "", _seen),
    )
}
CALL = "call"
CALL_TITLE = "a call of a patched function, over the unpatched one"


def values(guests: Guests) -> dict[str, list[list[float]]]:
    """The values of every figure that a cell has, by guest."""
    found: dict[str, list[list[float]]] = {}
    for measured in guests:
        for key, each in _values(measured).items():
            found.setdefault(key, []).append(each)
    return found


def _values(measured: Measured) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for figure in FIGURES.values():
        every = [figure.value(each) for each in measured["repetitions"]]
        found[figure.key] = [float(each) for each in every if each is not None]
    if calls := measured.get("calls"):
        pairs = zip(calls["patched"], calls["plain"], strict=True)
        found[CALL] = [patched - plain for patched, plain in pairs]
    return {key: each for key, each in found.items() if each}


def estimates(guests: Guests) -> dict[str, Estimate]:
    """Every figure of a cell with its interval."""
    found = {}
    for key, each in values(guests).items():
        statistic = FIGURES[key].statistic if key in FIGURES else numpy.median
        made = estimate(each, statistic)
        assert made is not None
        found[key] = made
    return found


def counts(guests: Guests) -> dict[str, list[int]]:
    """What was counted in all guests: for each context calls by version, and mixed ones."""
    found: dict[str, list[int]] = {}
    for measured in guests:
        for context, row in measured["counts"].items():
            before = found.get(context, [0] * len(row))
            found[context] = [one + other for one, other in zip(before, row, strict=True)]
    return found


def timeline(guests: Guests) -> list[list[float]]:
    """Tasks over time: milliseconds since the order and the share that runs the new code, of the
    repetition with the median length; empty if none came to its end."""
    every = [each for measured in guests for each in measured["repetitions"]]
    changes = [each["apply"] for each in every if "apply" in each]
    done = [each for each in changes if each["finished"]]
    if not done:
        return []
    done.sort(key=lambda change: change["ms"])
    change = done[len(done) // 2]
    total = max(change["total"], 1)
    return [[0.0, 0.0]] + [[ms, round(1 - left / total, 4)] for ms, left in change["samples"]]


def forecast_errors(guests: Guests) -> list[list[float]]:
    """The square of what the forecast was wrong by, for each pair of a forecast and a repetition of
    one guest, by guest: 0 is always right, 1 always wrong (Brier's score)."""
    return [
        [
            (said["chance"] - _within(repetition["apply"], said["horizon_ms"])) ** 2
            for said in measured["forecasts"]
            for repetition in measured["repetitions"]
            if "apply" in repetition
        ]
        for measured in guests
    ]


def _within(change: Mapping[str, Any], horizon_ms: float) -> float:
    """Whether a change ended in the time that the forecast looked at. What it takes to load a
    module is not in the forecast: the engine tells of its own part."""
    spent = change["times"]["move"] / 1000 if "move" in change["times"] else change["ms"]
    return float(change["finished"] and spent <= horizon_ms)
