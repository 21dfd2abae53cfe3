# SPDX-License-Identifier: GPL-2.0-or-later
"""A survey from its plan to its report. Everything that is found is written down at once, so that
a survey that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from livegraft.errors import LivegraftError, LostGuest, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.module.delivery import write_whole
from livegraft.progress import SILENT, Progress, Step
from livegraft.survey.bothways import SECOND, build_again
from livegraft.survey.building import Outcome, Workplace, build, failed, unfinished
from livegraft.survey.candidate import Candidate
from livegraft.survey.commits import Commits
from livegraft.survey.controls import control
from livegraft.survey.grouping import Setting
from livegraft.survey.guests import GuestNotUp
from livegraft.survey.journal import Journal
from livegraft.survey.loading import Found, Load, load_one
from livegraft.survey.plan import plan, shuffled
from livegraft.survey.sources import Trees
from livegraft.survey.workers import Failure, Task, Workers

LIMIT = 1800
"""Seconds for one fix, on a machine that does other things as well: a header that a thousand units
read takes ten minutes, and a function that all of them use would take hours."""

_LATER = {"controls", "both", "limit"}
"""Options that may be asked for when the rest is done."""

LOAD_SECONDS = 1800.0
"""For one module in a guest, starts of the guest on a busy machine included."""

_FOLDERS = ("fixes", "modules", "objects", "extracted")


@dataclass(frozen=True, slots=True)
class Options:
    """What a survey is about; another one needs another folder.

    Args:
        old: the source before: a version, a release, or a commit.
        new: the source after.
        release: the kernel to patch.
        sample: how many fixes; None for all.
        seed: of the sample.
        paths: patterns of files; empty for all.
        repository: a git repository that `old` and `new` are commits of; empty for packages.
        controls: how many units to try for false changes.
        both: whether to prepare each patch in both ways.
        limit: seconds for one fix, and as many for what belongs to it.
        units: refuse a fix of headers that more units read; None for no limit.
    """

    old: str
    new: str
    release: str
    sample: int | None = None
    seed: int = 1
    paths: tuple[str, ...] = ()
    repository: str = ""
    controls: int = 0
    both: bool = False
    limit: int = LIMIT
    units: int | None = None

    @property
    def command(self) -> str:
        """The command line that asks for this survey."""
        words = ["livegraft", "survey", self.old, self.new, "-k", self.release, "-o", "DIR"]
        if self.sample is not None:
            words += ["--sample", str(self.sample), "--seed", str(self.seed)]
        for pattern in self.paths:
            words += ["--path", f"'{pattern}'"]
        words += ["--git", self.repository] if self.repository else []
        words += ["--controls", str(self.controls)] if self.controls else []
        words += ["--method", "both"] if self.both else []
        words += ["--limit", str(self.limit)] if self.limit != LIMIT else []
        words += ["--units", str(self.units)] if self.units is not None else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a survey has found.

    Args:
        options: what it was about.
        results: a line per fix, in the order of the plan.
        controls: a line per unit that was tried for false changes.
        seconds: how long this run took; an earlier one that was interrupted is not in it.
    """

    options: Options
    results: Sequence[Mapping[str, Any]]
    controls: Sequence[Mapping[str, Any]]
    seconds: float


def conduct(
    options: Options,
    kernel: Kernel,
    sources: Callable[[], Trees | Commits],
    folder: Path,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> Findings:
    """Plan, build, load, judge.

    Args:
        options: what the survey is about.
        kernel: the prepared kernel.
        sources: opens what `options` names; asked once there is need of it.
        folder: where everything goes; made if it is not there.
        workers: processes side by side; by default one per core.
        progress: told of the steps.

    Raises:
        UsageError: the folder holds another survey.
        LivegraftError: the fixes cannot be made out.
    """
    began = time.monotonic()
    _claim(folder, options)
    for name in _FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    place = Workplace(kernel.release, kernel.cache.root, folder, options.units)
    results = Journal(folder / "results.jsonl")
    controls = Journal(folder / "controls.jsonl")
    opened = cache(sources)
    with Workers(workers) as pool:
        candidates = _planned(options, kernel, opened, folder, pool, progress)
        _write_fixes(place, opened, candidates)
        _build(place, candidates, results, pool, options.limit, progress)
        _load(place, _loads(place, candidates, results), results, pool, progress)
        if options.both:
            _build_again(place, candidates, results, pool, options.limit, progress)
            again = _loads(place, candidates, results, second=True)
            _load(place, again, results, pool, progress)
        _control(options, kernel, controls, pool, progress)
    results.keep_order(candidate.id for candidate in candidates)
    lines = [results[candidate.id] for candidate in candidates]
    return Findings(options, lines, list(controls), time.monotonic() - began)


def _claim(folder: Path, options: Options) -> None:
    """Make the folder this survey's, or make sure that it is; some may be asked for later."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "survey.json"
    asked = json.loads(json.dumps(asdict(options)))
    if not path.is_file():
        write_whole(path, json.dumps(asked, indent=2).encode() + b"\n")
        return
    known = json.loads(path.read_text("utf-8"))
    differing = sorted(key for key in asked.keys() - _LATER if known.get(key) != asked[key])
    if differing:
        raise UsageError(
            str(folder),
            f"holds another survey: {', '.join(differing)} differ",
            "name another folder, or give the same options again to go on with that one",
        )


def _planned(
    options: Options,
    kernel: Kernel,
    opened: Callable[[], Trees | Commits],
    folder: Path,
    pool: Workers,
    progress: Progress,
) -> list[Candidate]:
    """The plan, which is written down before anything is built and then stays."""
    path = folder / "plan.json"
    if path.is_file():
        return [Candidate.from_json(one) for one in json.loads(path.read_text("utf-8"))]
    sources = opened()
    if isinstance(sources, Commits):
        candidates = sources.candidates(kernel, options.sample, options.seed, progress)
    else:
        candidates = plan(
            Setting(kernel.release, kernel.cache.root, sources, options.limit, options.units),
            pool,
            Journal(folder / "grouping.jsonl", "seed"),
            sample=options.sample,
            seed=options.seed,
            progress=progress,
        )
    if not candidates:
        raise LivegraftError(
            f"{options.old} to {options.new}",
            f"changes no unit that {options.release} is built from",
            "check the versions, and --path",
        )
    document = [candidate.as_json() for candidate in candidates]
    write_whole(path, json.dumps(document, indent=1).encode() + b"\n")
    return candidates


def _write_fixes(
    place: Workplace, opened: Callable[[], Trees | Commits], candidates: Iterable[Candidate]
) -> None:
    for candidate in candidates:
        path = place.fix(candidate)
        if not path.is_file():
            write_whole(path, opened().fix(candidate))


def _build(
    place: Workplace,
    candidates: Sequence[Candidate],
    results: Journal,
    pool: Workers,
    limit: int,
    progress: Progress,
) -> None:
    by_id = {each.id: each for each in candidates if each.id not in results}
    tasks = (Task(each.id, build, (place, each)) for each in by_id.values())
    with progress.step("build", len(by_id)) as step:
        for done in pool.run(tasks, limit):
            candidate = by_id[done.key]
            found = done.result
            if isinstance(found, Failure):
                found = _not_built(found) | {"seconds": done.seconds}
            results.add(candidate.as_json() | {"module": candidate.name} | found)
            step.advance()
            step.say(f"{candidate.id}: {found['outcome']}")


def _not_built(failure: Failure) -> dict[str, Any]:
    """What became of a fix that a worker could not bring to an end."""
    if failure.timed_out:
        return unfinished(failure.problem)
    return failed(failure.problem) | {"trace": failure.trace}


def _build_again(
    place: Workplace,
    candidates: Sequence[Candidate],
    results: Journal,
    pool: Workers,
    limit: int,
    progress: Progress,
) -> None:
    """Cut what was built out of the source as well."""
    built = (Outcome.BUILT, Outcome.LOADED)
    by_id = {
        each.id: each
        for each in candidates
        if results[each.id]["outcome"] in built and SECOND not in results[each.id]
    }
    tasks = (Task(each.id, build_again, (place, each)) for each in by_id.values())
    with progress.step("cut out of the source", len(by_id)) as step:
        for done in pool.run(tasks, limit):
            found = done.result
            if isinstance(found, Failure):
                found = _not_built(found) | {"seconds": done.seconds}
            results.add(results[done.key] | {SECOND: found})
            step.advance()
            step.say(f"{done.key}: {found['outcome']}")


def _loads(
    place: Workplace, candidates: Sequence[Candidate], results: Journal, *, second: bool = False
) -> list[Load]:
    """The modules that wait to be loaded, those that patch the same modules one after the other.

    A guest then inserts a large driver once for all of them.

    Args:
        second: those that were cut out of the source.
    """
    loads = []
    for each in candidates:
        line = results[each.id]
        told = line.get(SECOND, {}) if second else line
        if told.get("outcome") == Outcome.BUILT:
            module = place.second(each) if second else place.module(each)
            objects = place.second_objects(each) if second else place.objects(each)
            targets = tuple(line["objects"])
            loads.append(Load(each.id, each.name, module, objects, targets, second))
    return sorted(loads, key=lambda load: load.modules)


def _load(
    place: Workplace,
    loads: Sequence[Load],
    results: Journal,
    pool: Workers,
    progress: Progress,
) -> None:
    second = frozenset(load.id for load in loads if load.second)
    first: dict[str, str] = {}
    # Workers of their own: their guests end with them.
    with progress.step("load", len(loads)) as step, Workers(pool.count) as guests:
        for key, found in _answers(place, loads, guests, alone=False):
            if found["outcome"] == Outcome.FAILED:
                first[key] = found["error"]
                step.say(f"{key}: {found['error']}; tried again later, alone")
                continue
            _note(results, key, found, step, key in second)
        suspects = [load for load in loads if load.id in first]
        for key, found in _answers(place, suspects, guests, alone=True):
            _note(results, key, found | {"first": first[key]}, step, key in second)


def _note(results: Journal, key: str, found: Found, step: Step, second: bool) -> None:
    line = results[key]
    results.add(line | ({SECOND: line[SECOND] | found} if second else found))
    step.advance()
    step.say(f"{key}: {found['outcome']}")


def _answers(
    place: Workplace, loads: Sequence[Load], guests: Workers, *, alone: bool
) -> Iterator[tuple[str, Found]]:
    """Load modules, a task each: an answer that is given stays, whatever becomes of the others.

    Raises:
        LostGuest: no guest comes up.
    """
    tasks = (
        Task(load.id, load_one, (place.release, place.cache_root, load, alone)) for load in loads
    )
    for done in guests.run(tasks, LOAD_SECONDS):
        found = done.result
        if isinstance(found, Failure):
            if found.kind == GuestNotUp.__name__:
                raise LostGuest(
                    place.release,
                    found.problem,
                    remedy="run the same command when this machine is less busy: it goes on",
                )
            found = failed(f"in the guest: {found.problem}") | {"trace": found.trace}
        yield done.key, found


def _control(
    options: Options, kernel: Kernel, controls: Journal, pool: Workers, progress: Progress
) -> None:
    if not options.controls:
        return
    from livegraft.survey.units import all_units

    chosen = shuffled(all_units(kernel, progress), options.seed)[: options.controls]
    left = [path for path in chosen if path not in controls]
    tasks = (Task(path, control, (kernel.release, kernel.cache.root, path)) for path in left)
    with progress.step("look for false changes", len(left)) as step:
        for done in pool.run(tasks, options.limit):
            found = done.result
            if isinstance(found, Failure):
                found = {"id": done.key, "changed": {"failed": [found.problem]}}
            controls.add(found)
            step.advance()
            step.say(done.key)
