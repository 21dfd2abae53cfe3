# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of real source that look harmless object by object, and would break the running kernel.

``tests/data/refused/RULE.CASE.patch``: each has to be refused by that rule. Without it
``storage-changed.init``, for instance, becomes a module that calls ``uts_ns_init`` after its memory
was freed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

DATA = Path(__file__).parents[1] / "data"
CASES = sorted((DATA / "refused").glob("*.patch"))

pytestmark = pytest.mark.build


@pytest.mark.parametrize("fix", CASES, ids=lambda path: path.stem)
def test_it_is_refused_by_its_rule(fix: Path, kernel: Kernel) -> None:
    outcome = pipeline.check([fix], kernel)
    assert outcome.verdict is Verdict.REFUSED
    assert fix.name.split(".")[0] in {reason.rule for reason in outcome.reasons}


def test_an_argument_beside_a_line_number_is_a_change(kernel: Kernel) -> None:
    """``__ext4_journal_start_sb`` takes the line in another place on each kernel line."""
    outcome = pipeline.check([DATA / "argument-not-line.patch"], kernel)
    assert [each.target.name for each in outcome.functions] == ["ext4_fileattr_set"]
