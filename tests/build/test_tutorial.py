# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of docs/tutorial.md print what the tutorial shows.

How its blocks are marked and compared: tests/shown.py. All commands are run in order in one folder,
with the test's cache in place of ``~/.cache/livegraft``.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.shown import Block, blocks, differs

from livegraft.cache import Cache
from livegraft.kernel.kernel import Kernel

pytestmark = pytest.mark.build

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
RELEASE = "6.1.0-55-amd64"
CACHE = "~/.cache/livegraft"
CACHE_OF_ROOT = "/root/.cache/livegraft"


class Reader:
    """Someone who follows the tutorial.

    Args:
        folder: stands for the clone.
        cache: the folder of the test's cache.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.status = 0
        (folder / "demo").symlink_to(ROOT / "demo")

    def follow(self, block: Block) -> None:
        """Do what a block says, and compare."""
        if block.mark.startswith("file: "):
            (self.folder / block.mark.removeprefix("file: ")).write_text(block.text, "utf-8")
            return
        for command, expected in block.commands():
            problem = differs(expected, self.run(command))
            if problem:
                pytest.fail(f"line {block.line}: $ {command}\n{problem}", pytrace=False)

    def run(self, command: str) -> str:
        """What a command prints, where the cache is named as the tutorial does."""
        script = f"(exit {self.status}); {command.replace(CACHE, str(self.cache))}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.status = done.returncode
        return done.stdout.replace(str(self.cache), CACHE_OF_ROOT)


BLOCKS = blocks(TUTORIAL.read_text("utf-8"))
IN_GUEST = "run in a guest"


@pytest.fixture(scope="module")
def reader(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    if kernel.release != RELEASE:
        pytest.skip(f"the tutorial is about {RELEASE}: name it in LIVEGRAFT_TEST_RELEASES")
    return Reader(tmp_path_factory.mktemp("tutorial"), Cache().root)


def test_every_command_prints_what_the_tutorial_shows(reader: Reader) -> None:
    for block in BLOCKS:
        if block.mark != IN_GUEST:
            reader.follow(block)
    assert reader.status == 0


@pytest.mark.guest
def test_the_guests_print_what_the_tutorial_shows(reader: Reader) -> None:
    module = reader.folder / "sample.ko"
    if not module.exists():
        reader.run(f"livegraft build demo/sample.patch -k {RELEASE} -o {module.name}")
    for block in BLOCKS:
        if block.mark.startswith("file: ") or block.mark == IN_GUEST:
            reader.follow(block)
    assert reader.status == 0


# -- the comparison can fail ----------------------------------------------------------------------


def test_there_is_something_to_run() -> None:
    marks = [block.mark for block in BLOCKS]
    assert marks.count("run") >= 8 and marks.count(IN_GUEST) >= 2
    verbs = {
        command.split()[1]
        for block in BLOCKS
        if block.mark.startswith("run")
        for command, _ in block.commands()
        if command.startswith("livegraft ")
    }
    assert verbs >= {"prepare", "diff", "check", "build", "inspect", "try"}


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["a", "b"], "a\nb\n"),
        (["made in 1.9 s"], "compile ...\ncompile ... done in 2.0 s\nmade in 12.3 s\n"),
        (["a", "…", "d"], "a\nb\nc\nd\n"),
        (["a … c"], "a b c\n"),
        (["since 2026-11-24T17:29:48.417+00:00"], "since 2027-01-02T07:09:08.123+00:00\n"),
        ([], ""),
    ],
)
def test_equal_outputs(expected: list[str], printed: str) -> None:
    assert differs(expected, printed) == ""


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["a", "b"], "a\n"),
        (["a"], "a\nb\n"),
        (["patchable"], "refused\n"),
        (["a", "…", "d"], "a\nb\nc\n"),
        ([], "livegraft: x: failed\n"),
        (["14 kB"], "14 MB\n"),
    ],
)
def test_different_outputs(expected: list[str], printed: str) -> None:
    assert differs(expected, printed) != ""
