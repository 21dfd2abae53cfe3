# SPDX-License-Identifier: GPL-2.0-or-later
"""A fix that moves lines: who has a line number in its code has not changed; who else has, has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixes import Edits

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

pytestmark = pytest.mark.build

FixOf = Callable[[Edits], Path]

BFA = "drivers/scsi/bfa/bfa_core.c"
"""It stores the line together with another number: ``movl $0x4010276, 0x20(...)``."""
CMDLINE = "fs/proc/cmdline.c"


def test_a_line_in_a_store_is_no_change(kernel: Kernel, fix_of: FixOf) -> None:
    first = '#include "bfad_drv.h"\n'
    outcome = pipeline.check([fix_of({BFA: (first, "\n" * 7 + first)})], kernel)
    assert outcome.verdict is Verdict.UNCHANGED, outcome.functions


def test_a_constant_that_grows_by_as_much_as_lines_move_is_a_change(
    kernel: Kernel, fix_of: FixOf
) -> None:
    first = "#include <linux/fs.h>\n"
    edits = [(first, "\n" * 7 + first), ("'\\n'", "17")]
    outcome = pipeline.check([fix_of({CMDLINE: edits})], kernel)
    assert outcome.verdict is Verdict.PATCHABLE
    assert [each.target.name for each in outcome.functions] == ["cmdline_proc_show"]
