# SPDX-License-Identifier: GPL-2.0-or-later
"""Which fixes a survey takes: settled, and written down, before the first is built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from livegraft.errors import LivegraftError
from livegraft.fix.bodies import body_only
from livegraft.progress import Progress
from livegraft.survey.candidate import Candidate
from livegraft.survey.grouping import Setting, changed_units, grow
from livegraft.survey.journal import Journal
from livegraft.survey.workers import Failure, Task, Workers

Seed = tuple[str, ...]
"""The files that a fix begins with."""


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Names in an order that depends on the seed and on nothing else (not on Python's version)."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def plan(
    setting: Setting,
    workers: Workers,
    grown: Journal,
    *,
    sample: int | None,
    seed: int,
    progress: Progress,
) -> list[Candidate]:
    """The fixes between two trees: one per changed unit, those that need one another joined.

    Args:
        grown: keeps what was found out of each file, so that an interrupted plan goes on.
        sample: how many fixes to take; None for all.
        seed: of the sample.
    """
    built = changed_units(setting.kernel(), setting.trees)
    order = sorted(built) if sample is None else shuffled(built, seed)
    taken: list[str] = []
    candidates: list[Candidate] = []
    left = iter(order)
    while sample is None or len(candidates) < sample:
        inside = {path for each in candidates for path in each.files}
        fresh = (path for path in left if path not in inside)
        wanted = len(order) if sample is None else sample - len(candidates)
        more = [path for _, path in zip(range(wanted), fresh, strict=False)]
        if not more:
            break
        taken += more
        candidates = _joined(setting, workers, grown, [(path,) for path in taken], built, progress)
    return candidates


def _joined(
    setting: Setting,
    workers: Workers,
    grown: Journal,
    seeds: Sequence[Seed],
    built: frozenset[str],
    progress: Progress,
) -> list[Candidate]:
    """Grow the seeds, and those that meet as one, until none meets another."""
    while True:
        candidates = _grow(setting, workers, grown, seeds, built, progress)
        merged = _meeting(seeds, candidates)
        if len(merged) == len(seeds):
            return candidates
        seeds = merged


def _grow(
    setting: Setting,
    workers: Workers,
    grown: Journal,
    seeds: Sequence[Seed],
    built: frozenset[str],
    progress: Progress,
) -> list[Candidate]:
    keys = {"\n".join(seed): seed for seed in seeds}
    unknown = [key for key in keys if key not in grown]
    tasks = (Task(key, grow, (setting, keys[key], built)) for key in unknown)
    with progress.step("see what compiles alone", len(unknown)) as step:
        for done in workers.run(tasks, setting.limit):
            found = done.result
            if isinstance(found, Failure):
                if found.trace:
                    raise LivegraftError(keys[done.key][0], found.problem, found.trace)
                # If it came to an end, it will fail when it is built as well, and be counted.
                files = keys[done.key]
                found = Candidate(
                    files[0],
                    files,
                    body_only(*setting.trees.texts(files)),
                    note=found.problem,
                    unfinished=found.problem if found.timed_out else "",
                )
            grown.add({"seed": done.key, **found.as_json()})
            step.advance()
            step.say(found.id)
    return [Candidate.from_json(grown[key]) for key in keys]


def _meeting(seeds: Sequence[Seed], candidates: Sequence[Candidate]) -> list[Seed]:
    """The seeds, those whose fixes have a unit in common made one.

    A common header does not count: two fixes may well need the same declaration.
    """
    first_with: dict[str, int] = {}
    leader = list(range(len(seeds)))

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for number, candidate in enumerate(candidates):
        for path in candidate.files:
            if path.endswith(".c"):
                one, other = find(first_with.setdefault(path, number)), find(number)
                leader[max(one, other)] = min(one, other)
    parts: dict[int, list[int]] = {}
    for number in range(len(seeds)):
        parts.setdefault(find(number), []).append(number)
    return [
        seeds[part[0]]
        if len(part) == 1
        else tuple(dict.fromkeys(path for each in part for path in candidates[each].files))
        for part in parts.values()
    ]
