# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ways check each other on real units; and what was cut out wrongly is found out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fixes import Edits, write_fix

from livegraft import pipeline
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.elf import object as elf
from livegraft.extract.emission import Text
from livegraft.extract.extraction import Extracted, extract
from livegraft.extract.folder import read_folder, write_folder
from livegraft.extract.rebuilding import rebuilder
from livegraft.extract.twoways import RULE, Class, Difference, Equal, compare_ways
from livegraft.fix.compiled import Compiled, compile_touched, find_reached
from livegraft.fix.fix import Fix
from livegraft.fix.units import units_of
from livegraft.kbuild.command import learn
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.module.inspect import inspect_module
from livegraft.pipeline import Method, Verdict
from livegraft.progress import SILENT
from livegraft.verdict.judge import judge

pytestmark = pytest.mark.build

EXT4_FIX = Path(__file__).parents[2] / "tests/data/ext4-mballoc.patch"
CMDLINE = {
    "fs/proc/cmdline.c": (
        "\tseq_putc(m, '\\n');\n",
        "\tseq_puts(m, \" livegraft\");\n\tseq_putc(m, '\\n');\n",
    )
}


@dataclass(frozen=True, slots=True)
class Both:
    """A unit, prepared in both ways."""

    kernel: Kernel
    compiled: Compiled
    comparison: Comparison
    shadow: Shadow

    def extract(self, given: str | None = None) -> Extracted:
        text = Text(given) if given is not None else None
        return extract(self.kernel, self.compiled, self.comparison, self.shadow, text)

    def differences(self, extracted: Extracted) -> tuple[Equal | Difference, ...]:
        again = rebuilder(self.kernel, self.compiled, self.comparison, self.shadow, extracted)
        return compare_ways(self.comparison, extracted.comparison, again)


@contextmanager
def prepared(kernel: Kernel, fix: Path, folder: Path) -> Iterator[Both]:
    changes = Fix.load([fix]).apply(kernel.source)
    commands = learn(kernel, units_of(changes, kernel).units)
    with shadow_of(kernel.source, changes) as shadow:
        reached = find_reached(kernel, commands, shadow, SILENT)
        batches = compile_touched(kernel, reached, shadow, folder / "objects", SILENT)
        (compiled,) = next(batches).compiled
        comparison = compare_objects(elf.read(compiled.before.path), elf.read(compiled.after))
        yield Both(kernel, compiled, judge(comparison), shadow)


def edited(kernel: Kernel, edits: Edits, folder: Path) -> Path:
    return write_fix(kernel, edits, folder)


def test_the_fix_of_ext4_is_the_same_both_ways(kernel: Kernel, tmp_path: Path) -> None:
    with prepared(kernel, EXT4_FIX, tmp_path) as both:
        found = both.differences(both.extract())
    assert found
    assert not [each for each in found if getattr(each, "kind", None) is Class.UNKNOWN]


def test_one_more_word_is_found_out(kernel: Kernel, tmp_path: Path) -> None:
    with prepared(kernel, edited(kernel, CMDLINE, tmp_path), tmp_path) as both:
        right = both.extract()
        assert both.differences(right) == (Equal("cmdline_proc_show"),)
        wrong = both.extract(right.text.replace('" livegraft"', '" otherwise"'))
        (difference,) = both.differences(wrong)
        assert isinstance(difference, Difference)
        assert difference.kind is Class.UNKNOWN
        assert "' livegraft' and ' otherwise'" in difference.where
        left_out = both.extract(right.text.replace("\tseq_putc(m, '\\n');\n", ""))
        (difference,) = both.differences(left_out)
        assert isinstance(difference, Difference)
        assert difference.kind is Class.UNKNOWN
        assert any(line.first == "call seq_putc" for line in difference.lines)


def test_a_helper_may_be_split_in_one_and_be_inlined_whole_in_the_other(
    kernel: Kernel, tmp_path: Path
) -> None:
    """``do_oops_enter_exit.part.0``: the whole unit calls it twice, what was cut out only once."""
    head = "void oops_exit(void)\n{\n"
    fix = edited(kernel, {"kernel/panic.c": (head, f'{head}\tasm("nop");\n')}, tmp_path)
    with prepared(kernel, fix, tmp_path) as both:
        (difference,) = both.differences(both.extract())
    assert isinstance(difference, Difference)
    assert difference.kind is Class.CLONE
    assert difference.names == ("do_oops_enter_exit.part.0",)


def test_a_clone_that_only_patched_functions_call_may_stay(
    any_kernel: Kernel, tmp_path: Path
) -> None:
    """``xfs_rtallocate_extent_near.constprop.0`` of 6.12 calls a changed clone, and its only caller
    brings a function of its own in its place.
    """
    place = "\t * If not, allocate what there is, if it's at least minlen.\n\t */\n"
    edits = {"fs/xfs/xfs_rtalloc.c": (place, f'{place}\tasm("nop");\n')}
    with prepared(any_kernel, edited(any_kernel, edits, tmp_path), tmp_path) as both:
        found = both.differences(both.extract())
    assert found
    assert not [each for each in found if getattr(each, "kind", None) is Class.UNKNOWN]


def test_both_modules_are_built(kernel: Kernel, tmp_path: Path) -> None:
    fix = edited(kernel, CMDLINE, tmp_path)
    built = pipeline.build([fix], kernel, output=tmp_path / "out.ko", method=Method.BOTH)
    assert built.second is not None
    assert built.second.path == tmp_path / "out.extract.ko"
    methods = [inspect_module(each.path).manifest["method"] for each in (built, built.second)]
    assert methods == ["compare", "extract"]
    (unit,) = built.outcome.extracted
    assert unit.ways == (Equal("cmdline_proc_show"),)


def test_what_differs_for_no_known_reason_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    """The negative control of the rule: a reviewer has changed the extracted file."""
    fix = edited(kernel, CMDLINE, tmp_path)
    right = pipeline.check([fix], kernel, method=Method.EXTRACT)
    review = tmp_path / "review"
    source = kernel.source_version
    write_folder(review, str(kernel.release), source, [fix], right.fix.sha256, right.extracted)
    folder = read_folder(review)
    assert pipeline.check([fix], kernel, method=Method.BOTH, folder=folder).second is not None
    (file,) = review.glob("*.c")
    file.write_text(file.read_text("latin-1").replace('" livegraft"', '" otherwise"'), "latin-1")
    outcome = pipeline.check([fix], kernel, method=Method.BOTH, folder=read_folder(review))
    assert outcome.verdict is Verdict.REFUSED
    assert [(each.rule, each.object) for each in outcome.reasons] == [(RULE, "cmdline_proc_show")]
    (unit,) = outcome.extracted
    (difference,) = unit.ways
    assert "otherwise" in difference.text()
