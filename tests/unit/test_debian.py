# SPDX-License-Identifier: GPL-2.0-or-later
"""The two Debian packages share the Python package between them; the runtime's part is enough."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documents import validate

from livegraft.cli.verb import MAKING, RUNTIME, SUMMARIES

ROOT = Path(__file__).parents[2]
PACKAGES = ("livegraft-runtime", "livegraft")
PATCH = ROOT / "tests/data/payload-abi1.ko"

PLACE = "usr/lib/python3*/dist-packages/livegraft/"


def parts(package: str) -> set[str]:
    """The files of src/livegraft that a package takes, by debian/PACKAGE.install."""
    found = set()
    for line in (ROOT / f"debian/{package}.install").read_text().splitlines():
        if line.startswith(PLACE):
            path = ROOT / "src/livegraft" / line.removeprefix(PLACE)
            assert path.exists(), line
            files = [path] if path.is_file() else path.rglob("*")
            found |= {str(each.relative_to(ROOT / "src")) for each in files if taken(each)}
    return found


def taken(path: Path) -> bool:
    """Whether it is a file of the package, and nothing that Python or kbuild has made."""
    return path.is_file() and "__pycache__" not in path.parts


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the runtime's package has of the Python package."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in parts("livegraft-runtime"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "src" / name, folder / name)
    return folder


def command(alone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command with the runtime's package alone: -S leaves out all that is installed."""
    code = (
        f"import sys; sys.path.insert(0, {str(alone)!r}); "
        "from livegraft.cli.main import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_file_is_in_one_package() -> None:
    runtime, rest = (parts(package) for package in PACKAGES)
    assert runtime & rest == set()
    files = {
        str(each.relative_to(ROOT / "src"))
        for each in (ROOT / "src/livegraft").rglob("*")
        if taken(each) and "module/kmod" not in str(each)
    }
    assert {each for each in files - runtime - rest if "module/kmod" not in each} == set()


@pytest.mark.parametrize("verb", sorted(RUNTIME))
def test_a_verb_of_the_runtime_is_there(alone: Path, verb: str) -> None:
    done = command(alone, verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: livegraft {verb}")


@pytest.mark.parametrize("verb", sorted(set(SUMMARIES) - RUNTIME))
def test_a_verb_that_is_not_there_names_its_package(alone: Path, verb: str) -> None:
    done = command(alone, verb, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (1, "NotInstalled")
    assert error["object"] == f"livegraft {verb}"
    assert error["remedy"] == "apt-get install livegraft"
    validate(verb, json.loads(done.stdout))


def test_help_says_what_is_not_there(alone: Path) -> None:
    text = command(alone, "--help").stdout
    assert "in the package livegraft, which is not installed" in text
    assert all(re.search(rf"^  {verb} ", text, re.MULTILINE) for verb in MAKING)


def test_the_completion_has_what_is_there(alone: Path) -> None:
    done = command(alone, "completion", "bash")
    assert done.returncode == 0
    assert "uninstall" in done.stdout
    assert "survey" not in done.stdout


def test_what_inspect_tells_is_the_same(alone: Path) -> None:
    done = command(alone, "inspect", str(PATCH), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    validate("inspect", told)
    whole = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", "inspect", PATCH, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.pop("compared") is False
    expected = json.loads(whole.stdout)
    assert expected.pop("compared") is True
    assert told == expected
    text = command(alone, "inspect", str(PATCH)).stdout
    assert "comparing it with the code takes the package livegraft" in text


def test_inspect_refuses_what_is_no_patch(alone: Path, tmp_path: Path) -> None:
    data = PATCH.read_bytes()
    for content in (b"no module", data[: len(data) // 2]):
        (tmp_path / "x.ko").write_bytes(content)
        done = command(alone, "inspect", str(tmp_path / "x.ko"), "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "PatchError")


def test_the_versions_are_the_same() -> None:
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    first = (ROOT / "debian/changelog").read_text().split("\n", 1)[0]
    assert first.startswith(f"livegraft ({version}) ")
