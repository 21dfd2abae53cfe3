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
PAGES = Path(__file__).parents[2] / "docs/reference/rules"

BY_OTHER_FIXES = frozenset(
    (
        *("asm-offsets", "assembly", "build-system", "documentation-only", "generator-input"),
        *("not-built", "not-kernel-code", "too-many-units", "vdso"),  # test_kbuild_units.py
        *("clone-changed", "edited-beyond", "not-extracted"),  # test_extract.py
        *("data-changed", "init-code"),  # test_all_reasons.py
        *("no-endbr", "proof"),  # test_ibt.py, test_pipeline.py
    )
)
"""Rules by which fixes of real source are refused in other tests."""

BY_NO_FIX = frozenset(
    (
        # No unit of these kernels has one, and no C that they are compiled from makes one.
        *("ifunc", "overlapping-symbols", "relocation-out-of-range", "section-group"),
        *("undecodable", "unknown-relocation", "unknown-symbol"),
        # By the kernel's configuration, not by the fix.
        *("config-changed", "kernel-config", "randomized-layout"),
        # What the compiler may do and was not seen to do with these kernels.
        *("inlining", "two-ways-differ"),
        # Two objects that others have compiled.
        "runtime-const",
        # Text that is no C, or reads otherwise once it is cut.
        *("cut-differs", "not-parsed"),
        # Beside others, by an edit of the same function: section-layout.quirk.patch.
        "static-local-ambiguous",
    )
)
"""Rules that are shown with objects and text made for that."""

pytestmark = pytest.mark.build


@pytest.mark.parametrize("fix", CASES, ids=lambda path: path.stem)
def test_it_is_refused_by_its_rule(fix: Path, kernel: Kernel) -> None:
    outcome = pipeline.check([fix], kernel)
    assert outcome.verdict is Verdict.REFUSED
    assert fix.name.split(".")[0] in {reason.rule for reason in outcome.reasons}


def test_each_rule_refuses_a_fix_or_none_can() -> None:
    here = {fix.name.split(".")[0] for fix in CASES}
    assert not here & BY_OTHER_FIXES and not BY_OTHER_FIXES & BY_NO_FIX and not here & BY_NO_FIX
    assert here | BY_OTHER_FIXES | BY_NO_FIX == {each.stem for each in PAGES.glob("*.md")} - {
        "index"
    }


def test_an_argument_beside_a_line_number_is_a_change(kernel: Kernel) -> None:
    """``__ext4_journal_start_sb`` takes the line in another place on each kernel line."""
    outcome = pipeline.check([DATA / "argument-not-line.patch"], kernel)
    assert [each.target.name for each in outcome.functions] == ["ext4_fileattr_set"]
