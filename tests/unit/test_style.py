# SPDX-License-Identifier: GPL-2.0-or-later
"""The style that every file keeps, checked by the tools and by a few rules of our own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHON_FOLDERS = ("src", "tests", "docs", "benchmarks", "demo", "setup")
PYTHON = [name for name in PYTHON_FOLDERS if any((ROOT / name).rglob("*.py"))]

SOURCES = {".py", ".c", ".h", ".S", ".sh", ".mk", ".toml", ".in"}
"""Files that say under which licence they stand."""

LONGEST_MODULE = 500
LONGEST_FUNCTION = 80

# Written so that this file does not find itself.
UNFINISHED = re.compile("T[O]DO|F[I]XME|Not[I]mplemented")
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:home|Users|work)/\w+")


def project_files() -> list[Path]:
    """Every file of the project that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


FILES = project_files()


def text_of(path: Path) -> str | None:
    """A file's text; None if it is binary."""
    data = path.read_bytes()
    return None if b"\0" in data[:8192] else data.decode("utf-8")


def sources() -> Iterator[tuple[str, str]]:
    """The path below the root and the text of every source file."""
    for path in FILES:
        if path.suffix in SOURCES or path.name == "Makefile":
            yield str(path.relative_to(ROOT)), text_of(path) or ""


def run_tool(*arguments: str) -> None:
    """Run a Python tool of the environment; what it finds fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", "--no-cache", *PYTHON)


def test_ruff_would_format_nothing() -> None:
    run_tool("ruff", "format", "--no-cache", "--check", *PYTHON)


def test_mypy_finds_nothing() -> None:
    run_tool("mypy", "--strict", *PYTHON)


def test_every_source_says_its_licence() -> None:
    missing = [
        name
        for name, text in sources()
        if text.strip() and "SPDX-License-Identifier:" not in "\n".join(text.splitlines()[:3])
    ]
    assert missing == []


def test_no_source_is_too_long() -> None:
    long = {name: len(text.splitlines()) for name, text in sources()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_MODULE} == {}


def functions(text: str) -> Iterator[tuple[str, int]]:
    """The functions of a Python source and how many lines each has."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_function_is_too_long() -> None:
    long = [
        f"{name}: {function} has {lines} lines"
        for name, text in sources()
        if name.endswith(".py")
        for function, lines in functions(text)
        if lines > LONGEST_FUNCTION
    ]
    assert long == []


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in sources()
        for number, line in enumerate(text.splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_no_text_names_a_place_of_one_machine() -> None:
    found = []
    for path in FILES:
        text = text_of(path) or ""
        if str(ROOT) in text or MACHINE_PATH.search(text):
            found.append(str(path.relative_to(ROOT)))
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (UNFINISHED, ("# TO", "DO: later")),
        (UNFINISHED, ("raise Not", "ImplementedError")),
        (MACHINE_PATH, ("see /ho", "me/someone/src")),
    ],
)
def test_the_patterns_can_fail(pattern: re.Pattern[str], words: tuple[str, str]) -> None:
    assert pattern.search("".join(words))


def test_a_long_function_would_be_found() -> None:
    body = "\n".join("    pass" for _ in range(LONGEST_FUNCTION))
    assert dict(functions(f"def long():\n{body}\n")) == {"long": LONGEST_FUNCTION + 1}


def test_every_test_is_collected(pytestconfig: pytest.Config) -> None:
    """A folder by the name of ``build`` is left out unless pytest is told otherwise."""
    patterns = pytestconfig.getini("norecursedirs")
    folders = {file.parent for file in (ROOT / "tests").rglob("test_*.py")}
    names = {part for folder in folders for part in folder.relative_to(ROOT).parts}
    assert "build" in names
    assert [name for name in names for each in patterns if fnmatch(name, each)] == []
