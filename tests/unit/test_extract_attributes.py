# SPDX-License-Identifier: GPL-2.0-or-later
"""What declarations of the running kernel's functions and variables say."""

from __future__ import annotations

import subprocess

import pytest
from tests.cut import kept

from livegraft.extract.attributes import is_static_once

HEADS = """\
#define noinline __attribute__((__noinline__))
#define inline inline __attribute__((gnu_inline)) __attribute__((unused))
#define __init __attribute__((__section__(".init.text"))) __attribute__((__cold__)) noinline
#define STATIC static noinline
#define __user
#define __must_check __attribute__((warn_unused_result))
STATIC int a(int x, char __user *p) { return x; }
static inline __must_check int b(int x) { return x; }
STATIC __init int c(int x) { return x; }
static int __attribute__((__noinline__)) __attribute__((pure, __noinline__)) d(int x) { return x; }
static const char *e(int x) { return 0; }
static int f(int x) __attribute__((const, unused)), unused(int);
static int f(int x) { return x; }
extern int g asm("other") __attribute__((section(".data.g")));
int g __attribute__((aligned(64))) = 1, h[2] = { 2, 3 };
int patched(int x)
{
	return a(x, 0) + b(x) + c(x) + d(x) + (e(x) != 0) + f(x) + g + h[1];
}
"""


@pytest.mark.parametrize(
    "declared",
    [
        "extern int a(int x, char __user *p);",
        "extern __attribute__((warn_unused_result)) int b(int x);",
        "extern __attribute__((__cold__)) int c(int x);",
        "extern int __attribute__((pure)) d(int x);",
        "extern int f(int x) __attribute__((const));",
        'extern int g asm("other") __attribute__((aligned(64)));',
        "extern int h[2];",
        "extern const char *e(int x);",
    ],
)
def test_a_declaration_says_what_callers_need_and_no_more(declared: str) -> None:
    """``STATIC`` of XFS is a macro for ``static noinline``; attributes may be a prototype's."""
    text = kept(HEADS, "patched", running="abcdefgh")
    assert f"{declared}\n" in text
    done = subprocess.run(
        ["gcc", "-Werror", "-O2", "-S", "-x", "c", "-", "-o", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    ("more", "is_once"),
    [
        ("int f(int a) { return a + count.count; }", True),
        ('const char *f(void) { return "static int count;"; }', True),
        ("static int f(int a) { return count; }", True),
        ("static const int *f = &other, g;", True),
        ("int f(void) { static struct { int a; } count; return count.a; }", False),
        ("static struct __attribute__((packed)) { int a; } b, count;", False),
        ("static struct a b = (struct a) { 1 }, count;", False),
        ("static int a[] = { 1, 2 }, *b, count[3];", False),
        ("const static unsigned count = 1;", False),
        ("static int f(int count) { return count; }", False),  # to be on the safe side
    ],
)
def test_statics_of_a_name_are_counted(more: str, is_once: bool) -> None:
    text = "static int g(void)\n{\n\tstatic int count = 1;\n\treturn count++;\n}\n"
    assert is_static_once(text, "count")
    assert is_static_once(f"{text}{more}\n", "count") is is_once
