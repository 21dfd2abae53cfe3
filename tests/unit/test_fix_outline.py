# SPDX-License-Identifier: GPL-2.0-or-later
"""``body_only``: function bodies and nothing else, told from two texts."""

from __future__ import annotations

import pytest

from livegraft.fix.bodies import body_only
from livegraft.fix.ctokens import numbered_tokens, tokens
from livegraft.fix.outline import outline

FILE = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/kernel.h>
#define LIMIT 4	/* of
	all */
struct pair { int a; int b; };
static const struct pair table[] = { { 1, 2 }, [1] = { .a = 3 } };
enum __packed mode { OFF, ON };
struct __attribute__((packed)) raw { u8 x; };
int counter = 0;

static int helper(struct pair *p)
{
	static int calls;
	char brace = '{', *text = "} /* no comment */";

	return p->a + calls++;	/* { */
}

struct pair *find(int (*match)(int), int n) __must_hold(&lock)
{
#ifdef CONFIG_A
	if (n) {
#else
	while (n) {
#endif
		n--;
	}
	return NULL;
}

SYSCALL_DEFINE2(demo, int, fd, int, how)
{
	return fd + how;
}

#ifdef CONFIG_B
static void either(int x)
#else
static void either(long x)
#endif
{
	helper(NULL);
}
module_init(find);
"""


def after(old: str, new: str) -> bool:
    assert FILE.count(old) == 1
    return body_only({"a.c": FILE}, {"a.c": FILE.replace(old, new)})


def test_functions_are_found() -> None:
    found = outline(FILE).functions
    assert [each.name for each in found] == ["helper", "find", "SYSCALL_DEFINE2(demo)", "either"]
    assert [each.is_static for each in found] == [True, False, False, True]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return p->a", "return p->b"),
        ("static int calls;", "static int calls, more;"),
        ('"} /* no comment */"', '"{"'),
        ("while (n) {", "while (n > 1) {"),
        ("#ifdef CONFIG_A", "#if 1"),
        ("return fd + how", "return fd - how"),
        ("helper(NULL);", "if (x) { helper(NULL); }"),
    ],
)
def test_a_change_in_a_body(old: str, new: str) -> None:
    assert after(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#define LIMIT 4", "#define LIMIT 5"),
        ("#include <linux/kernel.h>", "#include <linux/mm.h>"),
        ("int a; int b;", "int a; long b;"),
        (".a = 3", ".a = 4"),
        ("OFF, ON", "OFF, ON, MAYBE"),
        ("u8 x;", "u16 x;"),
        ("counter = 0", "counter = 1"),
        ("static int helper(struct pair *p)", "int helper(struct pair *p)"),
        ("__must_hold(&lock)", "__must_hold(&other)"),
        ("SYSCALL_DEFINE2(demo, int, fd", "SYSCALL_DEFINE2(demo, long, fd"),
        ("static void either(long x)", "static void either(u64 x)"),
        ("module_init(find);", "module_init(find);\nstatic int new(void) { return 1; }"),
        ("\tstatic int calls;", "#define LATER 1\n\tstatic int calls;"),
        ("#ifdef CONFIG_B", "#ifdef CONFIG_C"),
    ],
)
def test_a_change_beside_bodies(old: str, new: str) -> None:
    assert not after(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/* of\n\tall */", "// of all"),
        ("\t/* { */", ""),
        ("int counter = 0;", "int\tcounter\n= \\\n0;"),
        ("#define LIMIT 4\t", "#  define   LIMIT 4 "),
    ],
)
def test_comments_and_space_are_no_change(old: str, new: str) -> None:
    changed = FILE.replace(old, new)
    assert changed != FILE
    assert tokens(changed) == tokens(FILE)
    assert not body_only({"a.c": FILE}, {"a.c": changed})
    assert body_only({"a.c": FILE}, {"a.c": changed.replace("p->a", "p->b")})


def test_a_macro_with_and_without_arguments_differ() -> None:
    assert tokens("#define F(x) 1\n") != tokens("#define F (x) 1\n")


def test_several_files() -> None:
    changed = FILE.replace("p->a", "p->b")
    assert body_only({"a.c": FILE, "b.h": FILE}, {"a.c": changed, "b.h": FILE})
    assert not body_only({"a.c": FILE}, {"a.c": changed, "new.h": ""})
    assert not body_only({"a.c": FILE, "b.h": FILE}, {"a.c": changed})


@pytest.mark.parametrize(
    "text",
    [
        "int f(void) {",  # never closed
        "int f(a) int a; { return a; }",  # as in 1978
        "}",
        "#error don't do \"this\n",
        "'",
        "",
    ],
)
def test_what_is_not_understood_counts(text: str) -> None:
    assert outline(text).functions == []
    assert not body_only({"a.c": text}, {"a.c": text + "\nint x;"})


def test_a_directive_in_a_comment_is_none() -> None:
    found = outline("/*\n#define A\n*/ int f(void) { return 1; }").skeleton
    assert not any(token.text.startswith("define") for token in found)


def test_functions_know_their_lines() -> None:
    lines = FILE.splitlines()
    found = {each.name: each.lines for each in outline(FILE).functions}
    assert {lines[each.start - 1] for each in found.values()} >= {
        "static int helper(struct pair *p)",
        "struct pair *find(int (*match)(int), int n) __must_hold(&lock)",
    }
    assert all(lines[each.stop - 2].endswith("}") for each in found.values())


def test_joined_lines_are_counted() -> None:
    text = '#define A \\\n 1 \\\n 2\nint a\\\nb;\r\n/* one\ntwo */ int c;\nchar *s = "x\\\n"; d\n'
    found = {token.text: line for token, line in numbered_tokens(text)}
    assert found["define A 1 2"] == 1
    assert (found["ab"], found["c"], found["s"], found["d"]) == (4, 7, 8, 9)


def test_a_skeleton_knows_its_lines() -> None:
    for text in (FILE, "int a;\nint f(void)\n{\n#define B 1\n}\nint c;\n"):
        found = outline(text)
        assert len(found.lines) == len(found.skeleton)
        assert found.lines == sorted(found.lines)
