# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a changed inline function reaches a unit, told from preprocessed text."""

from __future__ import annotations

import pytest

from livegraft.fix.reach import Parts, changed_bodies, differ, reaches

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


BEFORE = """
struct sock { int family; struct sock *next; };
enum kind { FIRST, SECOND };
extern int known(struct sock *sk);
static inline int family(const struct sock *sk) { return sk->family; }
static inline int wrapped(const struct sock *sk) { return family(sk); }
"""
OTHER = "int f(int x) { return x; }\n"

UNREACHED = {
    "a new inline function": ("", "static inline int more(int x) { return x; }"),
    "a new prototype": ("", "extern int more(int x);"),
    "one with attributes": ("", "__attribute__((__cold__)) int more(int x) __attribute__((pure));"),
    "a new structure": ("", "struct more { struct more *next; enum { ONE, TWO } kind; };"),
    "a new type's name": ("", "typedef struct { int x; } more_t;"),
    "a tag": ("", "struct more;"),
    "a declared variable": ("", "extern int more;"),
    "a member more": ("int family; ", "int family, more; "),
    "another value": ("FIRST, SECOND", "FIRST = 3, SECOND"),
    "another prototype": ("known(struct sock *sk)", "known(struct sock *sk, int more)"),
    "another body": ("return family(sk)", "return family(sk) + 1"),
    "nothing but lines": ("\nenum", "\n\n\nenum"),
}


def differs(old: str, new: str, rest: str, rest_before: str | None = None) -> bool:
    after = BEFORE.replace(old, new, 1) if old else f"{BEFORE}{new}\n"
    assert after != BEFORE
    before = rest if rest_before is None else rest_before
    return differ(Parts(BEFORE, before), Parts(after, rest))


@pytest.mark.parametrize("case", UNREACHED)
def test_a_unit_that_mentions_nothing_of_it_is_not_reached(case: str) -> None:
    assert not differs(*UNREACHED[case], OTHER)


USES = {
    "a new inline function": "int g(void) { return more(1); }",
    "a new prototype": "int g(void) { return more(1); }",
    "one with attributes": "int g(void) { return more(1); }",
    "a new structure": "int g(void) { return TWO; }",
    "a new type's name": "more_t x;",
    "a tag": "struct more *x;",
    "a declared variable": "int g(void) { return more; }",
    "a member more": "struct sock *g(void) { return 0; }",
    "another value": "int g(void) { return SECOND; }",
    "another prototype": "int g(void) { return known(0); }",
    "another body": "int g(void) { return wrapped(0); }",
}


@pytest.mark.parametrize("case", USES)
def test_a_unit_that_mentions_it_is_reached(case: str) -> None:
    """The control of the test above."""
    assert differs(*UNREACHED[case], OTHER + USES[case])


def test_what_depends_on_it_counts_as_well() -> None:
    """``known()`` takes a ``struct sock``: who calls it may depend on how that lies in memory."""
    assert differs("int family; ", "int family, more; ", "int g(void) { return known(0); }")
    assert differs("int family; ", "int family, more; ", "int g(void) { return wrapped(0); }")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "int more;"),
        ("", "static int more = 1;"),
        ("", "extern int more, other;"),
        ("", "int more(int x) { return x; }"),
        ("", "static inline __attribute__((__used__)) int more(int x) { return x; }"),
        ("", 'asm(".section more");'),
        ("", "#pragma pack(1)"),
        ("", "struct more { int x; } variable;"),
        ("", "extern struct sock (*more)(int x);"),
        ("extern int known(struct sock *sk);\n", ""),
    ],
)
def test_what_leaves_code_or_is_not_understood_reaches_all(old: str, new: str) -> None:
    is_gone = not new
    assert differs(old, new, OTHER) is not is_gone


def test_the_other_name_of_a_type_counts_as_well() -> None:
    """A tag that is declared before depends on nothing, but who names the type may."""
    before = Parts("typedef struct more { int x; } more_t;\n", OTHER)
    after = Parts(f"struct more;\n{before.inside}", OTHER)
    assert not differ(before, after)
    use = f"{OTHER}more_t x;\n"
    assert differ(before._replace(rest=use), after._replace(rest=use))


def test_a_macro_that_means_something_else_reaches_who_expands_it() -> None:
    assert differs("", "struct more;", "int x = 2;", rest_before="int x = 1;")


def test_another_order_reaches_all() -> None:
    first, second = "struct a { int x; };\n", "extern int b(void);\n"
    assert differ(Parts(first + second, OTHER), Parts(second + first, OTHER))
