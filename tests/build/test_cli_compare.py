# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft compare`` on objects of a real compiler: document, verdict and exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate

from livegraft.errors import Exit

pytestmark = pytest.mark.build

COMPILER = shutil.which("gcc-12") or shutil.which("gcc")

FLAGS = (
    *("-c", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-mcmodel=kernel"),
    *("-pg", "-mfentry", "-mrecord-mcount", "-fno-asynchronous-unwind-tables", "-mno-sse"),
)

UNIT = """
extern int printk(const char *text, ...);
int limit = 7;
__attribute__((noinline)) int first(int x) { return x > limit ? printk("too much: %d\\n", x) : x; }
int second(int x) { return first(x) + first(x + 1); }
"""


def compiled(folder: Path, name: str, source: str) -> Path:
    """An object with a section for each function and variable, as the kernel's units are built."""
    assert COMPILER is not None, "a compiler is missing: apt-get install gcc-12"
    unit = folder / "unit.c"
    unit.write_text(source)
    subprocess.run([COMPILER, *FLAGS, "-o", folder / name, unit], check=True)
    return folder / name


def compare(*objects: Path) -> tuple[int, Any, str]:
    """The exit code, the document, and the text for people."""
    argv = [sys.executable, "-m", "livegraft.cli.main", "compare", *map(str, objects)]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    validate("compare", document)
    text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return done.returncode, document, text


@pytest.mark.parametrize(
    ("before", "after", "code", "verdict", "changed", "new"),
    [
        ("", "", Exit.UNCHANGED, "unchanged", [], []),
        ("x > limit", "x >= limit", Exit.DONE, "changed", ["first"], []),
        ("int second", "int third(int x) { return x; }\nint second", Exit.DONE, "changed", [],
         ["third"]),
        ("limit = 7", "limit = 8", Exit.REFUSED, "refused", [], []),
    ],
)  # fmt: skip
def test_verdicts(
    before: str, after: str, code: Exit, verdict: str, changed: list[str], new: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    original = compiled(tmp_path, "original.o", UNIT)
    patched = compiled(tmp_path, "patched.o", UNIT.replace(before, after) if before else UNIT)
    status, document, text = compare(original, patched)
    assert (status, document["verdict"]) == (code, verdict)
    assert (document["changed"], document["new"]) == (changed, new)
    assert bool(document["reasons"]) == (verdict == "refused")
    assert text.startswith(verdict)
    assert all(name in text for name in (*changed, *new))


def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    text = tmp_path / "text.o"
    text.write_text("no object\n")
    status, document, _ = compare(text, text)
    assert status == Exit.FAILED
    assert document["error"]["object"] == str(text)
