# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal that survives its writer, the processes that can be ended, and the plan's order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from livegraft.errors import UsageError
from livegraft.survey import report
from livegraft.survey.building import Outcome, Workplace
from livegraft.survey.candidate import Candidate
from livegraft.survey.conduct import Findings, Options, _claim, _loads
from livegraft.survey.journal import Journal
from livegraft.survey.oracle import Check, ReadBack, Verdict, read_back
from livegraft.survey.plan import _meeting, shuffled
from livegraft.survey.running import PER_CPU, per_cpu_base, running_module
from livegraft.survey.sources import Trees, likely_functions, names_in_headers
from livegraft.survey.workers import Failure, Task, Workers


def test_a_journal_drops_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    journal.add({"id": "a", "n": 1})
    journal.add({"id": "b", "n": 2})
    journal.add({"id": "a", "n": 3})
    with path.open("ab") as file:
        file.write(b'{"id": "c", "n"')
    again = Journal(path)
    assert [(each["id"], each["n"]) for each in again] == [("a", 3), ("b", 2)]
    again.add({"id": "c", "n": 4})
    assert [each["n"] for each in Journal(path)] == [3, 2, 4]
    again.keep_order(["c", "b", "a"])
    assert len(path.read_text().splitlines()) == 3
    assert [each["id"] for each in Journal(path)] == ["c", "b", "a"]


def double(number: int) -> int:
    return 2 * number


def fail() -> int:
    raise ValueError("what?")


def hang() -> int:
    time.sleep(600)
    return 0


def die() -> int:
    os._exit(3)


def test_workers_do_tasks_and_outlive_what_goes_wrong() -> None:
    tasks = [
        Task("two", double, (1,)),
        Task("error", fail),
        Task("hang", hang),
        Task("death", die),
        Task("four", double, (2,)),
    ]
    began = time.monotonic()
    with Workers(2) as workers:
        found = {done.key: done.result for done in workers.run(tasks, timeout=20)}
    assert time.monotonic() - began < 90
    assert (found["two"], found["four"]) == (2, 4)
    error, late, death = (found[key] for key in ("error", "hang", "death"))
    assert isinstance(error, Failure) and error.problem == "ValueError: what?" and error.trace
    assert isinstance(late, Failure) and late.timed_out
    assert isinstance(death, Failure) and "3" in death.problem


ORPHANED = """
import sys
from pathlib import Path
from tests.unit.test_survey_parts import hang_and_tell
from livegraft.survey.workers import Task, Workers
if __name__ == "__main__":
    with Workers(1) as workers:
        list(workers.run([Task("hang", hang_and_tell, (Path(sys.argv[1]),))], timeout=600))
"""


def hang_and_tell(path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    hang()


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Even if that was killed, and could end nobody."""
    script, told = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(ORPHANED)
    places = os.pathsep.join(each for each in sys.path if each)
    parent = subprocess.Popen(
        [sys.executable, script, told], env={**os.environ, "PYTHONPATH": places}
    )
    try:
        wait_for(told.is_file)
        worker = Path("/proc", told.read_text())
        assert worker.is_dir()
        parent.kill()
        parent.wait()
        wait_for(lambda: not worker.is_dir())
    finally:
        parent.kill()


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_sample_depends_on_its_seed_alone() -> None:
    names = [f"drivers/{number}.c" for number in range(50)]
    assert shuffled(names, 1) == shuffled(reversed(names), 1) != shuffled(names, 2)


def test_fixes_with_a_unit_in_common_become_one() -> None:
    files = [("a.c", "h.h", "b.c"), ("b.c",), ("c.c", "h.h"), ("d.c", "b.c"), ("e.c",)]
    seeds = [(each[0],) for each in files]
    candidates = [Candidate(each[0], each, False) for each in files]
    assert _meeting(seeds, candidates) == [
        ("a.c", "h.h", "b.c", "d.c"),
        ("c.c",),
        ("e.c",),
    ]


def test_a_folder_keeps_to_its_survey(tmp_path: Path) -> None:
    options = Options("1", "2", "6.1.0-54-amd64", 12, 1, ("fs/*",))
    _claim(tmp_path, options)
    _claim(tmp_path, options)
    _claim(tmp_path, replace(options, controls=200))
    with pytest.raises(UsageError, match=r"sample, seed differ.*name another folder"):
        _claim(tmp_path, Options("1", "2", "6.1.0-54-amd64", 13, 2, ("fs/*",)))


def test_who_may_define_a_function_is_told_from_who_calls_it(tmp_path: Path) -> None:
    """Hundreds of files call what a header of an update names; each would be read in full."""
    texts = {
        "defines.c": ("int f(void);\n", "int f(void);\nint\nlg_new(int x)\n{\n}\n"),
        "calls.c": ("", "int g(void)\n{\n\tif (x)\n\t\treturn lg_new(1);\n}\n"),
        "header.h": ("", "int lg_new(int x);\n"),
    }
    for path, sides in texts.items():
        for folder, text in zip(("old", "new"), sides, strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / path).write_text(text)
    trees = Trees(tmp_path / "old", tmp_path / "new", tuple(sorted(texts)))
    assert likely_functions(trees) == {"calls.c": {"g"}, "defines.c": {"lg_new"}}
    assert names_in_headers(trees) == {"header.h": {"int", "lg_new", "x"}}


def test_names_are_fit_for_modules() -> None:
    long = Candidate("drivers/net/ethernet/mellanox/mlx5/core/en-tc.x/a/b/c/d/ef.c", (), False)
    names = {
        long.name,
        Candidate("fs/a-b.c", (), False).name,
        Candidate("fs/a_b.c", (), False).name,
    }
    assert len(names) == 3
    assert all(len(name) <= 55 and name.replace("_", "").isalnum() for name in names)


def line(outcome: Outcome, body: bool, **more: object) -> dict[str, object]:
    base = {"id": f"{outcome}{body}", "files": ["a.c"], "body_only": body, "subject": ""}
    return {**base, "outcome": outcome, **more}


def test_modules_with_the_same_target_are_loaded_one_after_the_other(tmp_path: Path) -> None:
    targets = {"a.c": "amdgpu", "b.c": "vmlinux", "c.c": "xfs", "d.c": "amdgpu", "e.c": "vmlinux"}
    candidates = [Candidate(path, (path,), True) for path in targets]
    results = Journal(tmp_path / "results.jsonl")
    for each in candidates:
        results.add(each.as_json() | {"outcome": Outcome.BUILT, "objects": [targets[each.id]]})
    place = Workplace("6.1.0-54-amd64", tmp_path, tmp_path)
    assert [each.id for each in _loads(place, candidates, results)] == [
        *("b.c", "e.c"),
        *("a.c", "d.c"),
        "c.c",
    ]


def test_the_report_counts() -> None:
    loaded = line(
        Outcome.LOADED,
        True,
        size=1000,
        seconds=2.0,
        relocations={"right": 3},
        read_back="all",
        object_loaded={"vmlinux": True},
        first="the guest was lost: it hangs",
    )
    waiting = line(
        Outcome.LOADED,
        False,
        size=3000,
        seconds=4.0,
        relocations={"right": 1, "absent": 2},
        read_back="partly",
        object_loaded={"ext4": False},
    )
    results = [
        loaded,
        waiting,
        line(Outcome.REFUSED, True, rules=["data-changed"], seconds=1.0),
        line(Outcome.UNCHANGED, True, seconds=1.0),
        line(Outcome.WRONG, False, seconds=1.0, size=10, error="x+1: y | z"),
        line(Outcome.REFUSED, False, rules=["data-changed", "vdso"], seconds=1.0),
        line(Outcome.UNFINISHED, False, seconds=1.0, error="took longer"),
    ]
    options = Options("6.1.190-1", "6.1.192-1", "6.1.0-54-amd64", sample=5)
    numbers = report.document(Findings(options, results, [], 1.0))
    assert (numbers["body_only"], numbers["body_only_changed"]) == (3, 2)
    assert numbers["body_only_loaded"] == 1
    assert numbers["refusals"] == {"data-changed": 2, "vdso": 1}
    assert [each["outcome"] for each in numbers["failed"]] == ["wrong"]
    assert numbers["unfinished"] == ["unfinishedFalse"]
    for bad in (Outcome.WRONG, Outcome.UNFINISHED, Outcome.FAILED):
        sound = [each for each in results if each["outcome"] not in ("wrong", "unfinished")]
        assert report.is_sound(report.document(Findings(options, sound, [], 1.0)))
        found = Findings(options, [*sound, line(bad, True, seconds=1.0)], [], 1.0)
        assert not report.is_sound(report.document(found))
    assert numbers["absent_objects"] == ["ext4"]
    assert [each["id"] for each in numbers["tried_again"]] == ["loadedTrue"]
    assert numbers["read_back"] == {"all": 1, "partly": 1, "nothing": 0}
    assert (numbers["relocations"]["right"], numbers["relocations"]["absent"]) == (4, 2)
    page = report.markdown(numbers)
    assert "| loaded, all read back | 1 | 1 |" in page
    assert "| loaded, not all read back | 1 | 0 |" in page
    assert "| absent | 2 |" in page and "| wrong | 0 |" in page
    assert "1 were built and loaded: 50.0%" in page
    assert options.command in page and "--sample 5 --seed 1" in page
    assert "x+1: y \\| z" in page


def test_the_report_counts_both_ways() -> None:
    def second(outcome: Outcome, **more: object) -> dict[str, object]:
        return {"outcome": outcome, "seconds": 3.0, **more}

    functions = [
        {"function": "f", "equal": True},
        {"function": "g", "equal": False, "class": "knowledge"},
        {"function": "h", "equal": True},
        {"function": "i", "equal": False, "class": "unknown"},
    ]
    files = [
        {"unit": "a.c", "lines": 120, "of": 6000, "patched": 1},
        {"unit": "b.c", "lines": 500, "of": 1000, "patched": 3},
    ]
    built = second(Outcome.LOADED, size=1000, functions=functions, files=files)
    base = {"size": 1000, "seconds": 2.0, "read_back": "all"}
    results = [
        line(Outcome.LOADED, True, **base, extract=built),
        line(Outcome.LOADED, True, **base, extract=second(Outcome.REFUSED, rules=["not-parsed"])),
        line(Outcome.LOADED, True, **base, extract=second(Outcome.FAILED, error="lost")),
        line(Outcome.REFUSED, True, rules=["vdso"], seconds=1.0),
    ]
    options = Options("6.1.190-1", "6.1.192-1", "6.1.0-54-amd64", both=True)
    numbers = report.document(Findings(options, results, [], 1.0))
    both = numbers["both"]
    assert both["outcomes"] == {"loaded": 1, "refused": 1, "failed": 1}
    assert (both["tried"], both["functions"], both["equal"]) == (3, 4, 2)
    assert both["classes"] == {
        **{"knowledge": 1, "clone": 0, "inlining": 0, "layout": 0, "unknown": 1},
    }
    assert (both["lines_of_one_function"], both["part_of_large_units"]) == (120, 0.02)
    assert [each["error"] for each in numbers["failed"]] == ["lost"]
    page = report.markdown(numbers)
    assert "| built and loaded by extract | 1 (33.3%) |" in page
    assert "| equal both ways | 2 (50.0%) |" in page
    assert "| differ: unknown | 1 (25.0%) |" in page
    assert "--method both" in page
    alone = report.document(Findings(options, results[3:], [], 1.0))
    assert alone["both"] is None


def test_what_was_not_read_back_is_no_part_of_what_was() -> None:
    def verdicts(*checks: Check) -> list[Verdict]:
        return [Verdict(".text.f+0x1", "s", check) for check in checks]

    assert read_back(verdicts(Check.RIGHT, Check.REWRITTEN)) is ReadBack.ALL
    assert read_back(verdicts(Check.RIGHT, Check.ABSENT)) is ReadBack.PARTLY
    assert read_back(verdicts(Check.ABSENT, Check.UNKNOWN)) is ReadBack.NOTHING


def test_nine_in_ten_are_within() -> None:
    assert report.spread(range(1, 11)) == {"median": 5.5, "p90": 9, "most": 10}
    assert report.spread([7.0]) == {"median": 7, "p90": 7, "most": 7}
    assert report.spread([]) is None


def test_per_cpu_variables_of_modules_are_found_by_name(tmp_path: Path) -> None:
    """Their section is not among those in sysfs; a name that is there twice tells nothing."""
    source = tmp_path / "unit.c"
    section = '__attribute__((section(".data..percpu")))'
    source.write_text("".join(f"{section} long {name} = 1;\n" for name in ("twice", "once")))
    output = tmp_path / "unit.o"
    subprocess.run(["gcc-12", "-c", "-fno-toplevel-reorder", "-o", output, source], check=True)
    file = output.read_bytes()
    lines = "1000 d twice\t[m]\n2000 d twice\t[m]\n"
    assert per_cpu_base(file, lines) is None
    base = per_cpu_base(file, lines + "0000000000030008 d once\t[m]\n")
    assert base == 0x30000
    found = running_module(file, {PER_CPU: base})
    assert [each.address for each in found.named("once")] == [0x30008]
