# SPDX-License-Identifier: GPL-2.0-or-later
"""The boot benchmark runs what a machine does: the installed command, signed patches."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from benchmarks import booting
from tests.machine import patch_bytes

from livegraft.lab import package
from livegraft.trust import appended
from livegraft.trust.signing import Key
from livegraft.trust.store import Store
from livegraft.trust.verification import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the package that a guest of the benchmark has."""
    folder = tmp_path_factory.mktemp("guest")
    files = {f"{package.PLACE}/{name}": data for name, data in package._sources()}
    files |= {
        path.lstrip("/"): data if isinstance(data, bytes) else data.read_bytes()
        for path, data in booting.command_line().items()
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_it_is_the_installed_command() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = entries["livegraft"].partition(":")
    shebang, *_, imports, ends = booting.SCRIPT.splitlines()
    assert (imports, ends) == (f"from {module} import {function}", f"sys.exit({function}())")
    rules = (ROOT / "debian/rules").read_text()
    assert f"--shebang='{shebang.removeprefix('#!')}'" in rules


def test_it_is_what_the_unit_runs() -> None:
    program, verb, *options = booting.of_the_unit().split()
    assert (program, verb, options[-1]) == (booting.COMMAND, "boot", "--json")
    assert f"ExecStart={' '.join((program, verb, *options[:-1]))}\n" in booting.UNIT.read_text()


@pytest.mark.parametrize("verb", ["boot", "status"])
def test_the_guest_has_all_that_it_needs(verb: str, guest: Path) -> None:
    script = guest / "livegraft"
    place = f'"/{Path(package.PLACE).parent}"'
    assert place in booting.SCRIPT
    script.write_text(booting.SCRIPT.replace(place, repr(str(guest / Path(package.PLACE).parent))))
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, verb, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: livegraft {verb}")


def test_its_author_signs(tmp_path: Path) -> None:
    folder = tmp_path / "livegraft/trusted.d"
    folder.mkdir(parents=True)
    key, certificate = booting.author(tmp_path)
    signature = Key.open(str(key), certificate).sign(patch_bytes())
    content, found = appended.split(appended.append(patch_bytes(), signature), "fix.ko")
    (folder / certificate.name).write_bytes(certificate.read_bytes())
    assert found == signature
    (verdict,) = verify(content, [(None, found)], Store.read(folder))
    assert [each.name for each in verdict.signers] == ["author"]
