# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of unusual shape, cut out of the source and held against what compare takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.changeset import VMLINUX, State
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Method, Outcome, Verdict

pytestmark = pytest.mark.build

FixOf = Callable[[dict[str, tuple[str, str] | str]], Path]

CONSOLES, CRYPTO = "fs/proc/consoles.c", "crypto/proc.c"
MEMINFO = "fs/proc/meminfo.c"
EXT4_HEADER = "fs/ext4/mballoc.h"
VERSION = "fs/proc/version.c"


def both(kernel: Kernel, fix: Path) -> Outcome:
    """Prepared both ways, each function equal or shown to differ rightly."""
    outcome = pipeline.check([fix], kernel, method=Method.BOTH)
    assert outcome.verdict is Verdict.PATCHABLE, outcome.reasons
    return outcome


def changed(outcome: Outcome) -> set[tuple[str, str]]:
    return {
        (each.target.object, each.target.name)
        for each in outcome.functions
        if each.state is State.CHANGED
    }


def test_equal_static_names_in_two_units(kernel: Kernel, fix_of: FixOf) -> None:
    """``c_next`` of both files is patched, ``c_start`` of both is another one."""
    outcome = both(
        kernel,
        fix_of(
            {
                CONSOLES: (
                    "\n\t++*pos;\n",
                    "\n\tif (m->private == c_start)\n\t\treturn NULL;\n\t++*pos;\n",
                ),
                CRYPTO: (
                    "\treturn seq_list_next(",
                    "\tif (m->private == c_start)\n\t\treturn NULL;\n\treturn seq_list_next(",
                ),
            }
        ),
    )
    patched = {each.target for each in outcome.functions if each.target.name == "c_next"}
    assert len({each.sympos for each in patched}) == 2
    for changes in (outcome.changes, outcome.second):
        assert changes is not None
        meant = [
            {ref.target.sympos for ref in piece.references if ref.target.name == "c_start"}
            for piece in changes.pieces
        ]
        assert len(meant) == 2 and meant[0] and meant[1] and meant[0] != meant[1]


def test_a_weak_function_is_called_by_its_name(kernel: Kernel, fix_of: FixOf) -> None:
    """The file defines ``arch_report_meminfo`` weakly; the running kernel has another one."""
    edit = ("\tarch_report_meminfo(m);\n", "\tarch_report_meminfo(m);\n\tseq_putc(m, ' ');\n")
    outcome = both(kernel, fix_of({MEMINFO: edit}))
    assert changed(outcome) == {(VMLINUX, "meminfo_proc_show")}
    (extracted,) = outcome.extracted
    assert "arch_report_meminfo" not in extracted.comparison.new_globals
    assert "arch_report_meminfo" not in extracted.patched


def test_a_header_only_fix(kernel: Kernel, fix_of: FixOf) -> None:
    edit = (
        "return ext4_group_first_block_no(sb, fex->fe_group) +",
        "return 8 + ext4_group_first_block_no(sb, fex->fe_group) +",
    )
    outcome = both(kernel, fix_of({EXT4_HEADER: edit}))
    assert {name for name, _ in changed(outcome)} == {"ext4"}
    assert {each.unit for each in outcome.extracted} == {"fs/ext4/mballoc.c"}
    assert all(each.is_equal for one in outcome.extracted for each in one.ways)


def test_a_function_that_nobody_calls_changes_nothing(kernel: Kernel, fix_of: FixOf) -> None:
    unused = "static int __maybe_unused lg_unused(void)\n{\n\treturn 1;\n}\n\n"
    fix = fix_of(
        {VERSION: ("static int version_proc_show", f"{unused}static int version_proc_show")}
    )
    outcome = pipeline.check([fix], kernel, method=Method.EXTRACT)
    assert outcome.verdict is Verdict.UNCHANGED
    assert not outcome.extracted
