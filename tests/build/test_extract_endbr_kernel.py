# SPDX-License-Identifier: GPL-2.0-or-later
"""ENDBR64 of what is cut out of a real unit: where the whole unit has it, edited or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixes import write_fix

from livegraft import pipeline
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64 import ENDBR64
from livegraft.extract import extraction
from livegraft.extract.folder import read_folder, write_folder
from livegraft.extract.twoways import Equal
from livegraft.kernel import entrance
from livegraft.kernel.kernel import Kernel
from livegraft.module.ibt import RULE
from livegraft.pipeline import Built, Method

pytestmark = pytest.mark.build

CALLED, POINTED = "wait_for_partner", "fifo_open"
"""Both static. The one is called directly, in two places; the other is in ``pipefifo_fops``."""

UNIT = "fs/pipe.c"
WAITS = "\n\twhile (cur == *cnt) {\n"
LOCKS = "\tspin_lock(&inode->i_lock);\n\tif (inode->i_pipe) {\n\t\tpipe = inode->i_pipe;\n"


@pytest.fixture(scope="module")
def fix(newest_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    edits = [(each, f"\tcpu_relax();\n{each}") for each in (WAITS, LOCKS)]
    return write_fix(newest_kernel, {UNIT: edits}, tmp_path_factory.mktemp("fix"))


def begin_with_it(path: Path) -> set[str]:
    """Those of the two that begin with ENDBR64 in a module that replaces both."""
    obj = elf.read(path)
    symbols = {each.name: each for each in obj.symbols if each.name in (CALLED, POINTED)}
    assert set(symbols) == {CALLED, POINTED}
    return {
        name
        for name, each in symbols.items()
        if obj.sections[each.section].data[each.value :].startswith(ENDBR64)
    }


def both_ways(kernel: Kernel, fix: Path, folder: Path) -> Built:
    return pipeline.build([fix], kernel, output=folder / "out.ko", method=Method.BOTH)


def test_it_is_where_the_whole_unit_has_it(
    newest_kernel: Kernel, fix: Path, tmp_path: Path
) -> None:
    built = both_ways(newest_kernel, fix, tmp_path)
    (unit,) = built.outcome.extracted
    assert unit.ways == (Equal(POINTED), Equal(CALLED))
    assert built.second is not None
    expected = {POINTED} if newest_kernel.config.enabled(entrance.SETTING) else set()
    for path in (built.path, built.second.path):
        assert begin_with_it(path) == expected


@pytest.mark.parametrize("declared", ["", "\nno declaration\n"], ids=["none", "wrong ones"])
def test_without_the_right_declarations_the_first_object_stays(
    newest_kernel: Kernel, fix: Path, declared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the option alone would leave out the one of `fifo_open` as well."""
    monkeypatch.setattr(extraction, "suffix", lambda *_: declared)
    output = tmp_path / "out.ko"
    pipeline.build([fix], newest_kernel, output=output, method=Method.EXTRACT)
    is_tracked = newest_kernel.config.enabled(entrance.SETTING)
    assert begin_with_it(output) == ({CALLED, POINTED} if is_tracked else set())


def test_an_edited_file(newest_kernel: Kernel, fix: Path, tmp_path: Path) -> None:
    """A remark changes nothing. An address that it takes leads to the running kernel's function."""
    right = pipeline.check([fix], newest_kernel, method=Method.EXTRACT)
    review, source = tmp_path / "review", newest_kernel.source_version
    write_folder(review, newest_kernel.release, source, [fix], right.fix.sha256, right.extracted)
    (file,) = review.glob("*.c")
    text = file.read_text("latin-1")
    assert text.count(WAITS) == 1
    is_tracked = newest_kernel.config.enabled(entrance.SETTING)

    file.write_text(text.replace(WAITS, f"/* Seen. */\n{WAITS}"), "latin-1")
    output, folder = tmp_path / "out.ko", read_folder(review)
    assert folder.edited == {UNIT}
    pipeline.build([fix], newest_kernel, output=output, method=Method.EXTRACT, folder=folder)
    assert begin_with_it(output) == ({POINTED} if is_tracked else set())

    file.write_text(text.replace(WAITS, f'\tprintk("%ps", {CALLED});\n{WAITS}'), "latin-1")
    outcome = pipeline.check(
        [fix], newest_kernel, method=Method.EXTRACT, folder=read_folder(review)
    )
    refused = [(RULE, CALLED)] if is_tracked else []
    assert [(each.rule, each.object) for each in outcome.reasons] == refused
    assert all("add a function that calls it" in each.remedy for each in outcome.reasons)
