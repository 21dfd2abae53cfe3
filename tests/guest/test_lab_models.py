# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft lab`` with real guests: a small comparison, what goes wrong in one, and the shell."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.releases import RELEASE

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel
from livegraft.lab.comparison import cells
from livegraft.lab.comparison.scenarios import MODELS, scenarios
from livegraft.lab.package import PLACE
from livegraft.lab.witnesses import witnesses

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(1200)]


def lab(*words: str | Path, script: str = "") -> tuple[int, dict[str, Any], str]:
    """Run the verb with ``--json``: exit code, document, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", "lab", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
        input=script,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    validate("lab", document)
    return done.returncode, document, done.stderr


@pytest.fixture(scope="module")
def sample(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live patch."""
    output = tmp_path_factory.mktemp("patches") / "sample.ko"
    pipeline.build([SAMPLE], one_kernel, output=output)
    return output


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("lab") / "report"
    words = ["models", "-k", RELEASE, "--scenario", "kthread", "--repeat", "2", "-o", str(folder)]
    words += ["--model", "hybrid", "--model", "stop"]
    status, document, said = lab(*words)
    assert status == 0, said
    return words, document


def test_two_models_are_measured(compared: tuple[list[str], dict[str, Any]]) -> None:
    _, document = compared
    assert [each["model"] for each in document["cells"]] == ["hybrid", "stop"]
    for cell in document["cells"]:
        figures = cell["figures"]
        assert (cell["status"], figures["applied"]["value"], cell["faults"]) == ("done", 1, [])
        for key in ("apply", "undo", "gap-quiet", "gap-apply", "gap-undo"):
            assert figures[key]["n"] == 2
            assert figures[key]["low"] > 0
        old, new, _, mixed = cell["counts"]["kthread"]
        assert old > 0 and new > 0 and mixed == 0
        assert cell["timeline"][-1][1] == 1
    hybrid, stop = (cell["figures"] for cell in document["cells"])
    assert hybrid["held"]["value"] == 0 < stop["held"]["value"]
    assert stop["tries"]["value"] >= 1


def test_the_report_is_there(compared: tuple[list[str], dict[str, Any]]) -> None:
    folder = Path(compared[1]["folder"])
    assert {"report.html", "report.md", "report.json"} <= {each.name for each in folder.iterdir()}
    validate("lab", json.loads((folder / "report.json").read_text("utf-8")))
    assert list((folder / "plots").glob("*-consistency.svg"))


def test_what_is_measured_is_kept(compared: tuple[list[str], dict[str, Any]]) -> None:
    words, document = compared
    status, again, said = lab(*words)
    assert status == 0
    assert "2 of 2 guests are there already" in said
    assert again["cells"] == document["cells"]


def test_which_model_takes_a_fix(compared: tuple[list[str], dict[str, Any]], sample: Path) -> None:
    words, document = compared
    status, again, said = lab(*words, "--fixes", sample.parent)
    assert status == 0, said
    found = [(each["model"], each["taken"], each["refused"]) for each in again["fixes"]]
    assert found == [("hybrid", 1, []), ("stop", 1, [])]
    assert again["cells"] == document["cells"]
    (answer,) = [each for each in again["claims"] if each["claim"] == "C6"]
    assert answer["found"][0] == "hybrid takes 1 of 1 live patches"


def test_a_folder_without_fixes(compared: tuple[list[str], dict[str, Any]], tmp_path: Path) -> None:
    status, document, _ = lab(*compared[0], "--fixes", tmp_path)
    assert status == 2 and "holds no live patch" in document["error"]["message"]


def test_a_patch_of_ones_own(sample: Path, tmp_path: Path) -> None:
    words = ["models", "-k", RELEASE, "--model", "hybrid", "--scenario", "idle", "--repeat", "2"]
    status, document, said = lab(*words, "--patch", sample, "-o", tmp_path / "report")
    assert status == 0, said
    (cell,) = document["cells"]
    assert (cell["status"], cell["faults"]) == ("done", [])
    assert cell["patch"] == "livegraft_sample"
    assert cell["figures"]["apply"]["n"] == 2


def test_explain(compared: tuple[list[str], dict[str, Any]]) -> None:
    status, document, _ = lab("explain", compared[1]["folder"])
    assert status == 0
    found = {each["claim"]: each["verdict"] for each in document["claims"]}
    assert found["C8"] == "holds"
    assert found["C4"] == "not measured"


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_every_scenario_runs(tmp_path: Path) -> None:
    """Once under each model: what a model cannot do is told by the figures, no cell is lost."""
    words = ["models", "-k", RELEASE, "--all", "--repeat", "1"]
    status, document, said = lab(*words, "-o", tmp_path / "report")
    assert status == 0, said
    names = [(each["scenario"], each["model"]) for each in document["cells"]]
    assert names == [(scenario, model) for scenario in scenarios() for model in MODELS]
    assert [each for each in document["cells"] if each["faults"]] == []
    lost = {
        (each["scenario"], each["model"]): each["reason"]
        for each in document["cells"]
        if each["status"] != "done"
    }
    assert lost == {}
    by_name = dict(zip(names, document["cells"], strict=True))
    applied = {name for name, each in by_name.items() if _applied(each)}
    others = {(scenario, model) for scenario in ("never", "reversed") for model in MODELS}
    assert set(names) - applied == others
    assert all(by_name["reversed", model]["figures"]["undo"]["n"] == 1 for model in MODELS)
    assert (tmp_path / "report" / "report.html").stat().st_size < 1_000_000


def _applied(cell: dict[str, Any]) -> bool:
    found = cell["figures"].get("applied")
    return found is not None and found["value"] == 1


def test_a_scenario_that_cannot_run(one_kernel: Kernel) -> None:
    """It is named, with what the guest said."""
    scenario = replace(scenarios()["idle"], load=("no-such-kind=1",), calls=False)
    asked = cells.request(scenario, "hybrid", 1, None)
    found = cells.measure(one_kernel, witnesses(one_kernel), scenario, asked, None)
    assert found["status"] == "failed"
    assert "the load does not start" in found["reason"]
    assert any("no-such-kind" in line for line in found["log"])


def test_a_model_that_does_not_exist(one_kernel: Kernel) -> None:
    """On this kernel, or with this engine: the cell says so, and is no failure."""
    scenario = replace(scenarios()["idle"], calls=False)
    asked = cells.request(scenario, "kgraft", 1, None)
    found = cells.measure(one_kernel, witnesses(one_kernel), scenario, asked, None)
    assert (found["status"], found["measured"]) == ("unavailable", None)
    assert found["reason"] == "the engine does not know it"


def test_a_cell_that_takes_too_long(one_kernel: Kernel) -> None:
    """It has what was measured in its time, and says so."""
    scenario = replace(scenarios()["idle"], calls=False)
    asked = replace(cells.request(scenario, "hybrid", 10, None), seconds=0.0)
    found = cells.measure(one_kernel, witnesses(one_kernel), scenario, asked, None)
    assert (found["status"], found["reason"]) == ("done", "2 of 10 repetitions in 0 s")
    assert len(found["measured"]["repetitions"]) == 2


def by_another(kernel: Kernel, program: bytes) -> dict[str, Any]:
    """What becomes of a cell if a program does something else in the guest than to measure."""
    scenario = replace(scenarios()["idle"], calls=False)
    files = {**witnesses(kernel), f"/{PLACE}/lab/witness/measure.py": program}
    asked = cells.request(scenario, "native", 1, None)
    return cells.measure(kernel, files, scenario, asked, None)


def test_a_kernel_with_a_fault(one_kernel: Kernel) -> None:
    """What was measured of it is no figure."""
    fault = b"open('/dev/kmsg', 'w').write('BUG: on purpose\\n')\nprint('{}')\n"
    found = by_another(one_kernel, fault)
    assert (found["status"], found["measured"]) == ("failed", None)
    assert found["reason"] == "the kernel's log tells of a fault: BUG: on purpose"
    assert found["faults"] == ["BUG: on purpose"] and "BUG: on purpose" in found["log"]


def test_a_guest_that_dies(one_kernel: Kernel) -> None:
    """The cell says so, with what the guest's console told before it."""
    found = by_another(one_kernel, b"open('/proc/sysrq-trigger', 'w').write('c')\n")
    assert found["status"] == "lost"
    assert "Kernel panic" in found["reason"]
    assert any("sysrq: Trigger a crash" in line for line in found["log"])


SCRIPT = """
modprobe loop && test -e /sys/module/loop && echo loop is here
modprobe no-such-module || echo refused
livegraft models | head -1
hello --greeting="of a package"
livegraft load sample.ko > /dev/null && grep -o livegraft.sample=1 /proc/cmdline
cat /mnt/shared/word
echo back > /mnt/shared/answer
exit 3
"""


def test_the_shell(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("from outside\n")
    more = ("--package", "hello", "--patch", sample)
    status, document, said = lab("shell", "-k", RELEASE, "--share", tmp_path, *more, script=SCRIPT)
    assert (status, document["status"]) == (1, 3)
    assert "loop is here" in said
    assert "refused" in said and "has no such module" in said
    assert "of a package" in said
    assert "livegraft.sample=1" in said
    assert "from outside" in said
    assert (tmp_path / "answer").read_text() == "back\n"


def test_the_shell_on_a_terminal() -> None:
    """Keys are passed on as they are typed; the guest's shell has a terminal of the same size, and
    this one is as it was afterwards. What is shown may go elsewhere."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 99))
    before = termios.tcgetattr(theirs)
    words = [sys.executable, "-m", "livegraft.cli.main", "lab", "shell", "-k", RELEASE, "--quiet"]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shown = b""
        for typed, wanted in ((b"", b"# "), (b"stty size\r", b"33 99"), (b"exit 3\r", b"")):
            os.write(ours, typed)
            while wanted not in shown and (more := os.read(shell.stdout.fileno(), 4096)):
                shown += more
            assert wanted in shown
    assert shell.returncode == 1
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
