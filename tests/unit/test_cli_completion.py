# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion scripts, run by the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from livegraft.cli import shells, tree
from livegraft.cli.verb import SUMMARIES
from livegraft.runtime.installed import PLACE

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_livegraft
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    made = {}
    for shell in ("bash", "zsh", "fish"):
        made[shell] = folder / f"livegraft.{shell}"
        text = getattr(shells, shell)(tree.commands(), tree.shared_options())
        made[shell].write_text(text, "utf-8")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for release in ("6.1.0-55-amd64", "6.12.117+deb12-amd64"):
        (tmp_path / "livegraft" / "kernel" / release).mkdir(parents=True)
    (tmp_path / "fix.patch").touch()
    (tmp_path / "debs").mkdir()
    return tmp_path


def bash(scripts: dict[str, Path], cache: Path, *words: str) -> set[str]:
    """What bash offers for the last word."""
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", str(scripts["bash"]), "livegraft", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=cache,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["co"], {"compare", "completion"}),
        (["--ver"], {"--verbose", "--version"}),
        (["prepare", "6.12"], {"6.12.117+deb12-amd64"}),
        (["check", "fix.patch", "-k", ""], {"6.1.0-55-amd64", "6.12.117+deb12-amd64"}),
        (["build", "fi"], {"fix.patch"}),
        (["build", "--no-"], {"--no-proof", "--no-colour"}),
        (["--cache", "x", "comp"], {"compare", "completion"}),
        (["prepare", "--packages", "de"], {"debs"}),
        (["load", "--model", ""], {"native", "hybrid", "stop", "task"}),
        (["completion", "f"], {"fish"}),
    ],
)
def test_bash(scripts: dict[str, Path], cache: Path, words: list[str], offered: set[str]) -> None:
    assert bash(scripts, cache, *words) == offered


ASK = {
    "zsh": """
compdef() { : }
compadd() { shift; print -l -- $@ }
_arguments() { for one; do if [[ $one == *:NAME:* ]]; then eval ${${one##*:NAME:}[2,-2]}; fi; done }
source $1
_livegraft_verb $2
""",
    "fish": 'source $argv[1]; complete -C "livegraft $argv[2..] "',
}
"""What the shell offers for a patch's name."""


@pytest.mark.parametrize("words", [("uninstall",), ("install", "--again")])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_installed_patches_are_offered(
    shell: str, words: tuple[str, ...], scripts: dict[str, Path], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing: apt-get install {shell}")
    for each in ("6.1.0-55-amd64/fix_a", "6.1.0-55-amd64/fix_b", "6.1.0-56-amd64/fix_c", ".new/x"):
        (tmp_path / "patches" / each).mkdir(parents=True)
    script = tmp_path / "script"
    text = scripts[shell].read_text("utf-8")
    assert f"/{PLACE}" in text
    script.write_text(text.replace(f"/{PLACE}", str(tmp_path / "patches")), "utf-8")
    if shell == "bash":
        offered = bash({"bash": script}, tmp_path, *words, "")
    else:
        argv = [shell, "-c", ASK[shell], *(("zsh",) if shell == "zsh" else ()), script, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
        offered = set(done.stdout.split())
    assert {"fix_a", "fix_b", "fix_c"} <= offered
    assert not offered & {"x", "6.1.0-55-amd64"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_its_script(shell: str, scripts: dict[str, Path]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing: apt-get install {shell}")
    subprocess.run([shell, "-n", scripts[shell]], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_option_is_in_it(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text("utf-8")
    assert all(name in text for name in SUMMARIES)
    for command in tree.commands():
        for option in tree.own_options(command):
            long = option.flags[-1].removeprefix("--")
            assert long in text, f"{command.verb.name}: {option.flags}"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("lab ", {"models", "explain", "shell"}),
        ("lab explain ", {"debs", "livegraft"}),
        ("lab models --model ", {"hybrid", "stop", "task", "native"}),
    ],
)
def test_bash_completes_what_to_do_and_then_a_folder(
    words: str, offered: set[str], scripts: dict[str, Path], cache: Path
) -> None:
    assert bash(scripts, cache, *words.split(" ")) == offered
