# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft lab``: what is wrong is told before any guest boots."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.comparison import KERNEL, MACHINE, cell, kept, measured
from tests.documents import validate

from livegraft.cache import Cache
from livegraft.cli import lab
from livegraft.cli.main import main
from livegraft.errors import Exit, ModuleError, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.lab.comparison import conduct, report
from livegraft.lab.comparison.cells import Cell
from livegraft.lab.comparison.conduct import CELLS, OPTIONS, Options, Turn, shares
from livegraft.lab.comparison.scenarios import MODELS, Scenario, scenarios
from livegraft.lab.witness.measure import Request
from livegraft.progress import SILENT, Progress

PAYLOAD = Path(__file__).parents[1] / "data/payload-abi1.ko"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and complaint of a command line that is wrong."""
    code = main(["lab", *words, "--json"])
    document = json.loads(capsys.readouterr().out)
    validate("lab", document)
    error = document["error"]
    return code, f"{error['object']}: {error['message']}; {error['remedy']}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models"], "say -o DIR"),
        (["models", "DIR"], "say -o DIR"),
        (["models", "-o", "DIR", "--repeat", "0"], "has to be 1 or more"),
        (
            ["models", "-o", "DIR", "--scenario", "asleep"],
            "asleep: is no scenario; use one of idle",
        ),
        (["models", "-o", "DIR", "--model", "kgraft"], "invalid choice"),
        (["models", "-o", "DIR", "--all", "--scenario", "idle"], "leave --scenario or --all out"),
        (["models", "-o", "/no/such/DIR"], "its folder does not exist; mkdir -p /no/such"),
        (["models", "-o", __file__], "is no folder"),
        (["models", "-o", "DIR", "--patch", "none.ko"], "none.ko: does not exist"),
        (["models", "-o", "DIR", "--patch", __file__], "is not"),
        (["explain"], "needs the folder of a report"),
        (["explain", "/tmp"], "holds no comparison of models"),
        (["shell", "-k", "a", "-k", "b"], "takes one kernel"),
        (["shell", "--share", __file__], "is no folder"),
    ],
)
def test_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, complaint = refused(capsys, *words)
    assert code in (Exit.USAGE, Exit.FAILED)
    assert said in complaint


def test_a_patch_for_another_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models", "-k", "6.1.0-1-amd64", "--patch", str(PAYLOAD), "-o", str(tmp_path / "out")]
    code, complaint = refused(capsys, *words)
    assert code == Exit.REFUSED
    assert "not 6.1.0-1-amd64" in complaint
    assert not (tmp_path / "out").exists()


def test_explain_reads_the_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the guests that were asked what is asked for; what others have seen does not count."""
    options = Options((KERNEL,), MODELS, ("called",), 10)
    (tmp_path / OPTIONS).write_text(json.dumps(options.as_json()))
    with pytest.raises(UsageError, match="another version has measured it, or nobody yet"):
        conduct.read(tmp_path)
    for model in MODELS:
        for number in (1, 3, 5, 6):
            asked = Turn(KERNEL, scenarios()["called"], model, number - 1, 2).asked(options)
            asked["format"] -= int(number == 3)
            document = kept(model)
            del document["repetitions"][2:]
            document["counts"]["syscall"][-1] = int(number in (3, 6))
            answer = cell("called", model, None)
            answer |= {"status": "done", "measured": document, "asked": asked}
            path = tmp_path / CELLS / KERNEL / "called" / model / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(answer))
    assert main(["lab", "explain", str(tmp_path)]) == Exit.DONE
    said = capsys.readouterr().out
    assert f"C8 holds on {KERNEL}: each model keeps what it guarantees" in said
    found = conduct.read(tmp_path)[1][0]
    assert (len(found["measured"]), found["status"]) == (2, "done")
    assert found["reason"] == "4 of 10 repetitions, in 2 of 5 guests"
    assert "C1 not measured" in said
    assert report.BRIEFLY not in said
    (tmp_path / "report.json").write_text(json.dumps({"machine": {"emulated": True}}))
    assert main(["lab", "explain", str(tmp_path)]) == Exit.DONE
    assert report.BRIEFLY in capsys.readouterr().out


ANSWER: dict[str, Any] = {
    "status": "done",
    "reason": "",
    "log": [],
    "faults": [],
    "measured": None,
    "seconds": 1,
}
"""What a guest may have answered."""


def without_guests(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    measure: Callable[..., dict[str, Any]],
    repeat: int = 1,
) -> Callable[..., list[Cell]]:
    """A comparison of three models in one scenario, whose cells somebody else measures."""
    kernel = cast(Kernel, SimpleNamespace(release=KERNEL, cache=Cache(tmp_path / "cache")))
    monkeypatch.setattr(conduct, "witnesses", lambda *_: {})
    monkeypatch.setattr("livegraft.lab.comparison.cells.measure", measure)
    options = Options((KERNEL,), ("native", "hybrid", "stop"), ("idle",), repeat)
    folder = tmp_path / "report"

    def conducted(progress: Progress = SILENT) -> list[Cell]:
        return conduct.conduct(options, [kernel], [scenarios()["idle"]], None, folder, progress)

    return conducted


def model_of(arguments: tuple[object, ...]) -> str:
    """Of a cell that is to be measured."""
    return cast(Request, arguments[3]).model


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell is whole or not there."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    def measure(*arguments: object) -> dict[str, Any]:
        if model_of(arguments) == "hybrid":
            monkeypatch.setattr("livegraft.module.delivery.os.fsync", full)
        return ANSWER

    conducted = without_guests(monkeypatch, tmp_path, measure)
    with pytest.raises(OSError, match="No space left"):
        conducted()
    cells = (tmp_path / "report/cells").rglob("*")
    names = [str(each.relative_to(each.parents[1])) for each in cells if each.is_file()]
    assert names == ["native/1.json"]


def test_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell that was not measured is named, kept, and measured anew the next time."""
    statuses = {"native": "lost", "hybrid": "failed", "stop": "done"}
    asked: list[str] = []

    def measure(*arguments: object) -> dict[str, Any]:
        asked.append(model_of(arguments))
        reason = "" if asked[-1] == "stop" else f"{asked[-1]} said so"
        return ANSWER | {"status": statuses[asked[-1]], "reason": reason}

    conducted = without_guests(monkeypatch, tmp_path, measure)
    told: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            told.append(text)

    found = conducted(Told())
    assert [each["status"] for each in found] == list(statuses.values())
    assert told == [
        f"{KERNEL}, idle, native: lost: native said so",
        f"{KERNEL}, idle, hybrid: failed: hybrid said so",
    ]
    conducted()
    assert asked == ["native", "hybrid", "stop", "native", "hybrid"]


def test_a_kernel_for_which_nothing_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells say so, with what the compiler has said; they do not end the comparison."""

    def broken(*_: object) -> dict[str, bytes | Path]:
        raise ModuleError("witness", "does not build for this kernel:\nx.c:1: error: no such thing")

    conducted = without_guests(monkeypatch, tmp_path, lambda *_: ANSWER)
    monkeypatch.setattr(conduct, "witnesses", broken)
    found = conducted()
    assert {each["model"] for each in found} == {"native", "hybrid", "stop"}
    for each in found:
        assert each["status"] == "failed"
        assert each["reason"] == "witness: does not build for this kernel:"
        assert each["log"] == ["x.c:1: error: no such thing"]
    options = {"kernels": [KERNEL], "models": MODELS, "scenarios": ["idle"], "repeat": 1}
    document = report.document(options | {"patch": []}, found, MACHINE, "livegraft", "1")
    validate("lab", document | {"folder": "x", "timings": {}})


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on where it was stopped; nobody else measures meanwhile."""
    asked: list[str] = []

    def measure(*arguments: object) -> dict[str, Any]:
        asked.append(model_of(arguments))
        with (
            pytest.raises(BlockingIOError),
            (tmp_path / "cache/locks/lab%2Fmeasure.lock").open() as held,
        ):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if asked == ["native", "hybrid"]:
            raise KeyboardInterrupt
        return ANSWER

    conducted = without_guests(monkeypatch, tmp_path, measure)
    with pytest.raises(KeyboardInterrupt):
        conducted()
    assert [each.stem for each in (tmp_path / "report").rglob("native/*.json")] == ["1"]
    assert [each["model"] for each in conducted()] == ["native", "hybrid", "stop"]
    assert asked == ["native", "hybrid", "hybrid", "stop"]


def test_guests_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell has had its first guest before one gets its second; where one was lost none
    follows, and what the guests before it have measured stays."""
    asked: list[tuple[str, int]] = []

    def measure(*arguments: object) -> dict[str, Any]:
        request = cast(Request, arguments[3])
        asked.append((request.model, request.repeat))
        if asked[3:] and request.model == "hybrid":
            return ANSWER | {"status": "lost", "reason": "the guest was lost: hangs"}
        return ANSWER | {"measured": measured(repeat=request.repeat)}

    conducted = without_guests(monkeypatch, tmp_path, measure, repeat=7)
    native, hybrid, stop = conducted()
    first = [("native", 3), ("hybrid", 3), ("stop", 3)]
    others = [("native", 2), ("hybrid", 2), ("stop", 2), ("native", 2), ("stop", 2)]
    assert asked == first + others
    assert [len(each["repetitions"]) for each in native["measured"]] == [3, 2, 2]
    assert (hybrid["status"], hybrid["reason"]) == ("lost", "the guest was lost: hangs")
    assert [len(each["repetitions"]) for each in hybrid["measured"]] == [3]
    assert (stop["status"], stop["reason"], stop["seconds"]) == ("done", "", 3)


def test_what_goes_on_is_the_same_as_what_was_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guests of a cell keep their order; where one does not come to its end nobody follows."""
    asked: list[str] = []

    def measure(*arguments: object) -> dict[str, Any]:
        asked.append(model_of(arguments))
        if asked[-1] == "stop":
            return ANSWER | {"status": "unavailable", "reason": "PREEMPT_RT"}
        document = measured() | {"tasks": len(asked)}
        return ANSWER | {"measured": document}

    conducted = without_guests(monkeypatch, tmp_path, measure, repeat=4)
    once = conducted()
    assert asked == ["native", "hybrid", "stop", "native", "hybrid"]
    assert once[2]["status"] == "unavailable"
    # Nothing is left to be done, and nobody waits for a turn.
    monkeypatch.setattr(Cache, "lock", None)
    assert conducted() == once
    monkeypatch.undo()
    conducted = without_guests(monkeypatch, tmp_path, measure, repeat=4)
    (tmp_path / "report/cells" / KERNEL / "idle/native/1.json").unlink()
    native = conducted()[0]
    assert [each["tasks"] for each in native["measured"]] == [6, 4]


@pytest.mark.parametrize(
    ("repeat", "guests", "found"),
    [
        (10, 5, [2] * 5),
        (10, 2, [5, 5]),
        (11, 5, [3, 2, 2, 2, 2]),
        (7, 5, [3, 2, 2]),
        (3, 5, [3]),
        (1, 5, [1]),
    ],
)
def test_how_repetitions_are_shared(repeat: int, guests: int, found: list[int]) -> None:
    assert shares(repeat, guests) == found


def test_which_cells_are_kept(tmp_path: Path) -> None:
    """Those that were measured as it is wanted now. A guest that was lost is no answer."""
    scenario, other = scenarios()["called"], scenarios()["idle"]
    options = Options((KERNEL,), MODELS, ("called",), 10)
    path = tmp_path / "stop.json"

    def turn(options: Options, scenario: Scenario) -> Turn:
        first = shares(options.repeat, scenario.guests)[0]
        return Turn(KERNEL, scenario, "stop", 0, first)

    def kept_as(options: Options, scenario: Scenario) -> bool:
        return conduct.kept(path, turn(options, scenario).asked(options)) is not None

    assert not kept_as(options, scenario)
    found = cell("called", "stop", kept("stop"))
    found["asked"] = turn(options, scenario).asked(options)
    path.write_text(json.dumps(found))
    assert kept_as(options, scenario)
    assert not kept_as(Options((KERNEL,), MODELS, ("called",), 11), scenario)
    assert not kept_as(options, other)
    # The scenario has functions of its own: the user's patch is not in it.
    assert kept_as(Options((KERNEL,), MODELS, ("called",), 10, ("fix", "12ab")), scenario)
    for status in ("lost", "failed"):
        path.write_text(json.dumps(found | {"status": status}))
        assert not kept_as(options, scenario)
    path.write_text(path.read_text()[:100])
    assert not kept_as(options, scenario)


def test_the_models_are_those_that_are_compared() -> None:
    assert lab.COMPARED == MODELS
    assert all(name in lab.VERB.description for name in scenarios() if "-" not in name)
