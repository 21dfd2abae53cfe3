# SPDX-License-Identifier: GPL-2.0-or-later
"""Runtime constants: a build without them has to inline the same functions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compare_pairs import compared, compiled

from livegraft.verdict.inlining import inlining

UNIT = """
static %s int lookup(int x) { return outside(x) * 3; }
int caller(int x) { return lookup(x) + 1; }
int other(int x) { return outside(x); }
__init int boot(int x) { return lookup(x); }
"""

PLACE = r"""
int limit(void) {
    unsigned long value;
    asm("mov $0x123456789abcdef, %0\n1: .pushsection runtime_ptr_limit, \"a\"\n.long 1b - 8 - .\n"
        ".popsection" : "=r"(value));
    return value;
}
"""
VARIABLE = "extern long runtime; int limit(void) { return runtime; }"
ALWAYS, NEVER = "inline __attribute__((always_inline))", "noinline"


@pytest.mark.parametrize(
    ("constants", "shipped", "differing"),
    [(PLACE, NEVER, []), (PLACE, ALWAYS, ["caller", "lookup"]), (VARIABLE, ALWAYS, [])],
)
def test_other_inlining_is_refused(
    constants: str, shipped: str, differing: list[str], tmp_path: Path
) -> None:
    plain = compiled(UNIT % shipped + constants, tmp_path, "plain.o", flags=())
    source = UNIT % NEVER + VARIABLE
    comparison = compared(source, source.replace("* 3", "* 5"), tmp_path)
    assert comparison.changed == ("lookup",)
    found = [(reason.rule, reason.object) for reason in inlining(plain, comparison)]
    assert found == [("inlining", name) for name in differing]
