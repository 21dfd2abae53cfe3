# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a changed inline function reaches a unit, told from preprocessed text."""

from __future__ import annotations

import pytest

from livegraft.fix.reach import changed_bodies, reaches

HEADER = """\
# 1 "/s/include/linux/a.h" 1
static inline __attribute__((__gnu_inline__)) int inner(int x)
{
 return x + 1;
}
static inline int outer(int x) { return inner(x); }
static inline int apart(int x) { return x; }
"""

UNIT = '# 1 "/s/fs/unit.c"\n{before}\n{header}# 3 "/s/fs/unit.c" 2\n{after}\n'


def reached(after: str, *names: str, header: str = HEADER, before: str = "") -> bool:
    text = UNIT.format(before=before, header=header, after=after)
    return reaches(text, {"/s/include/linux/a.h"}, set(names))


@pytest.mark.parametrize(
    ("after", "names"),
    [
        ("int f(void) { return inner(1); }", ["inner"]),
        ("int f(void) { return outer(1); }", ["inner"]),
        ("int (*pointer)(int) = outer;", ["inner"]),
        ("int f(void) { return apart(1); }", ["inner", "apart"]),
        ("int f(void) { return 1; }", ["nowhere"]),
    ],
)
def test_a_use_is_found(after: str, names: list[str]) -> None:
    assert reached(after, *names)


@pytest.mark.parametrize(
    ("after", "names"),
    [
        ("int f(void) { return apart(1); }", ["inner"]),
        ("int f(void) { return inner(1); }", ["outer"]),
        ("int f(void) { return my_inner(1) + inner_most(2); }", ["inner"]),
        ("int f(void) { return inner(1); }", []),
    ],
)
def test_no_use_is_none(after: str, names: list[str]) -> None:
    assert not reached(after, *names)


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("static inline __attribute__((__gnu_inline__)) int inner", "int inner"),
        HEADER.replace("__gnu_inline__", "__used__"),
        HEADER + "static int (*const table[])(int) = { inner };\n",
        HEADER.replace("a.h", "b.h"),
    ],
    ids=["global", "used", "in a table", "another name"],
)
def test_what_stays_without_a_caller_is_reached(header: str) -> None:
    assert reached("int f(void) { return 1; }", "inner", header=header)


def test_a_use_in_front_of_the_header_counts() -> None:
    assert reached("", "inner", before="extern int inner(int);")


def test_changed_bodies_are_named() -> None:
    before = "static inline int f(int x)\n{ return x; }\nint g(void) { return 1; }\n"
    after = before.replace("return x", "return x + 1").replace("\nint g", "\n\n\nint g")
    assert changed_bodies(before, after + "int h(void) { return 2; }") == {"f", "h"}
