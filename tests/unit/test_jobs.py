# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs side by side end together, and leave no program behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from livegraft.errors import RunFailed
from livegraft.jobs import AHEAD, Jobs, in_order
from livegraft.run import run


def _alive(marker: Path) -> bool:
    """Whether the program that wrote its number to `marker` still runs."""
    return Path(f"/proc/{marker.read_text().strip()}").exists()


def _sleeper(marker: Path) -> None:
    run(["sh", "-c", f"echo $$ > {marker}; sleep 60"])


def _wait_for(marker: Path) -> None:
    while not (marker.is_file() and marker.read_text().strip()):
        time.sleep(0.01)


def test_results() -> None:
    with Jobs(2) as jobs:
        futures = [jobs.start(pow, 2, n) for n in range(5)]
        jobs.finish(*futures)
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]


def test_they_run_side_by_side() -> None:
    began = time.monotonic()
    with Jobs(3) as jobs:
        jobs.finish(*(jobs.start(run, ["sleep", "0.4"]) for _ in range(3)))
    assert time.monotonic() - began < 1.0


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    def fail() -> None:
        _wait_for(marker)
        run(["false"])

    began = time.monotonic()
    with pytest.raises(RunFailed, match="false"), Jobs(2) as jobs:
        slow = jobs.start(_sleeper, marker)
        jobs.start(fail)
        jobs.finish(slow)
    assert time.monotonic() - began < 5
    assert not _alive(marker)


def test_an_interrupt_ends_them(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Jobs(1) as jobs:
        jobs.start(_sleeper, marker)
        queued = jobs.start(_sleeper, tmp_path / "never")
        _wait_for(marker)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 5
    assert not _alive(marker)
    assert queued.cancelled() and not (tmp_path / "never").exists()


def test_results_come_in_order_and_are_counted() -> None:
    counted: list[int] = []
    tasks = [partial(pow, 2, n) for n in range(40)]
    found = list(in_order(tasks, 2, lambda: counted.append(1)))
    assert found == [2**n for n in range(40)]
    assert len(counted) == 40


def test_few_are_begun_ahead() -> None:
    begun = 0

    def tasks() -> Iterator[partial[int]]:
        nonlocal begun
        for n in range(10_000):
            begun += 1
            yield partial(pow, n, 2)

    with closing(in_order(tasks(), 2)) as results:
        assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert begun <= 3 + AHEAD * 2


def test_who_leaves_early_ends_what_runs(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    tasks = [partial(_wait_for, marker), partial(_sleeper, marker)]
    with closing(in_order(tasks, 2)) as results:
        next(results)
    assert not _alive(marker)


def test_a_failure_ends_those_in_order(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    def fail() -> None:
        _wait_for(marker)
        run(["false"])

    tasks: list[Callable[[], None]] = [partial(_sleeper, marker), fail]
    with pytest.raises(RunFailed):
        list(in_order(tasks, 2))
    assert not _alive(marker)
