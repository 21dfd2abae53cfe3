# SPDX-License-Identifier: GPL-2.0-or-later
"""A long cut is two files: what the fix is about, and a header with the rest."""

from __future__ import annotations

import pytest
from tests.cut import UNIT, preprocess

from livegraft.extract.emission import header_name
from livegraft.extract.selection import Wanted
from livegraft.extract.slice import slice_unit


def test_what_the_fix_does_not_change_goes_into_a_header_if_it_is_long() -> None:
    before = "enum mode { ON, OFF };\nstatic enum mode mode;\n"
    before += (
        "static int helper(int a)\n{\n\tmode = ON;\n" + "\ta++;\n" * 150 + "\treturn a;\n}\n\n"
    )
    before += "static int calls(int);\nstatic int late(int a)\n{\n\treturn calls(a);\n}\n\n"
    before += "static int calls(int a)\n{\n\treturn helper(a);\n}\n\n"
    before += "int patched(int a)\n{\n\treturn helper(a) + late(a);\n}\n"
    text = before.replace("return helper(a);", "return helper(a) + 1;")
    wanted = Wanted({"patched"}, set(), {"patched"}, set(), {})
    found = slice_unit(UNIT, text, preprocess(text), wanted, preprocess, print, before).text
    assert found.header.count("a++;") == 150
    assert f'#line 3 "{UNIT}"' in found.header
    assert "enum mode { ON, OFF };" in found.header
    assert "a++;" not in found.main
    for body in ("return helper(a) + 1;", "return calls(a);", "return helper(a) + late(a);"):
        assert body in found.main  # it is patched, changed by the fix, or needs what is
    assert found.main.index(header_name(UNIT)) < found.main.index("return calls(a);")


LONG = (
    """\
#define EARLY 1
#include <stddef.h>
#include <stdint.h>
#define SIZE 4
#define TWICE (2 * SIZE)
#define KEPT 5
#ifdef EARLY
#define CHOSEN 1
#else
#define CHOSEN 2
#endif
struct changes { int a; };
struct stays { int a; };
static int variable = 1;
/* Says something. */
static int said(int a)
{
	return a + KEPT + sizeof(struct stays);
}

static int twice(struct changes *a)
{
	return TWICE + a->a + said(1);
}

static int helper(int a)
{
"""
    + "\ta++;\n" * 150
    + """\
	return a;
}

int patched(int a)
{
	return helper(a) + twice(0) + variable + CHOSEN + EARLY;
}
"""
)


@pytest.mark.parametrize(
    ("old", "new", "main", "header"),
    [
        ("SIZE 4", "SIZE 8", ["#define SIZE 8", "TWICE (", "twice(s"], ["KEPT 5", "said(int a)\n"]),
        ("CHOSEN 2", "CHOSEN 3", ["#ifdef EARLY", "CHOSEN 1", "#else", "CHOSEN 3"], ["SIZE 4"]),
        ("changes { int", "changes { long", ["long a", "twice(s"], ["struct stays", "TWICE ("]),
        ("int variable", "long variable", ["extern long variable;"], ["struct changes", "twice(s"]),
        ("Says some", "Says any", ["Says anything", "said(int a)\n", "twice(s"], ["KEPT 5"]),
        ("EARLY 1", "EARLY 2", ["EARLY 2", "<stddef.h>", "<stdint.h>"], ["KEPT 5", "said(int a)"]),
        ("#include <stdint.h>\n", "", ["return 1 + helper(a)"], ["<stddef.h>", "KEPT 5"]),
        ("<stdint.h>", "<limits.h>", ["EARLY 1", "<stddef.h>", "<limits.h>"], ["TWICE (", "KEPT"]),
    ],
)
def test_the_header_has_nothing_that_the_fix_changes(
    old: str, new: str, main: list[str], header: list[str]
) -> None:
    assert LONG.count(old) == 1
    text = LONG.replace(old, new).replace("return helper(a)", "return 1 + helper(a)")
    wanted = Wanted({"patched"}, set(), {"patched"}, {"variable"}, {"patched": ["variable"]})
    found = slice_unit(UNIT, text, preprocess(text), wanted, preprocess, print, LONG).text
    assert "a++;" in found.header
    for each in main:
        assert each in found.main
        assert each not in found.header
    for each in header:
        assert each in found.header
        assert each not in found.main
