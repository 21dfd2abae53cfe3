# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fix changes outside of function bodies."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft.fix.bodies import changes_declarations
from livegraft.fix.outline import outline

FILE = """\
#include <linux/fs.h>
/* a table { with braces */
struct thing {
\tint x;
} __attribute__((packed));
static const struct thing things[] = { { 1 }, { 2 } };
enum { A, B };
DEFINE_MUTEX(lock);

static int one(struct thing *t)
{
\tif (t->x == '{')
\t\treturn "}"[0]; // }
#ifdef CONFIG_SMP
\treturn 1;
#endif
\treturn 0;
}

SYSCALL_DEFINE1(two, int, x)
{
\treturn x;
}
EXPORT_SYMBOL(two);
#define LOCAL(type) static type local
static int counts(int y)
{
\tint z = 1;
\tstatic int count = 1, counts[] = { 1, 2 };
#ifdef WIDE
\tconst static long limit;
#endif
\tcount += y;
\treturn count;
}
static int of(int y) { static typeof(y) last; return last = 1; }
static int local(int y) { LOCAL(int); return local++; }
static int named(int y) { typedef int number; static number n; return n++; }
static __attribute__((noinline)) void three(void) { struct { int x; } y = { 1 }; use(&y); }
"""

BODY_ONLY = [
    ("int z = 1;", "long z = 2;"),
    ("count += y;", "if (y) { count -= y; }"),
    ("\treturn x;", "\treturn x + 1;"),
    ("'{'", "'}'"),
    ("static int one", "\n\n/* words */\nstatic int one"),
    ("#ifdef CONFIG_SMP", "#ifndef CONFIG_SMP"),
]

DECLARATIONS = [
    ("static int count =", "static unsigned count ="),
    ("const static long", "const static unsigned long"),
    ("const static long", "unsigned static long"),
    ("counts[] = { 1, 2 };", "counts[] = { 1, 2 }, *more;"),
    ("#ifdef WIDE", "#ifndef WIDE"),
    ("return last = 1;", "return last = 2;"),
    ("LOCAL(int)", "LOCAL(unsigned)"),
    ("typedef int number;", "typedef unsigned number;"),
    ("\tint x;\n", "\tint x, y;\n"),
    ("{ 2 }", "{ 3 }"),
    ("A, B", "A, C, B"),
    ("SYSCALL_DEFINE1(two, int, x)", "SYSCALL_DEFINE1(two, long, x)"),
    ("#include <linux/fs.h>", "#include <linux/file.h>"),
    ("#ifdef CONFIG_SMP", "#define CONFIG_SMP 1\n#ifdef CONFIG_SMP"),
    ("struct { int x; } y", "struct { long x; } y"),
    ("EXPORT_SYMBOL(two);", ""),
    ("\treturn 0;\n}", "\treturn 0;\n}\nint four(void) { return 4; }"),
    ("\treturn 0;", "#ifdef X\n\tif (t) {\n#else\n\tif (!t) {\n#endif\n\t}\n\treturn 0;"),
]


def changed(tmp_path: Path, old: str, new: str) -> bool:
    assert FILE.count(old) == 1
    (tmp_path / "x.c").write_text(FILE)
    return changes_declarations({"x.c": FILE.replace(old, new).encode()}, tmp_path)


@pytest.mark.parametrize(("old", "new"), BODY_ONLY)
def test_bodies_are_told_from_declarations(old: str, new: str, tmp_path: Path) -> None:
    assert not changed(tmp_path, old, new)


@pytest.mark.parametrize(("old", "new"), DECLARATIONS)
def test_a_declaration_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    assert changed(tmp_path, old, new)


def test_a_new_and_a_deleted_file_declare_something(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(FILE)
    assert changes_declarations({"y.c": b"int y;"}, tmp_path)
    assert changes_declarations({"x.c": None}, tmp_path)


def test_functions_are_found_by_their_names() -> None:
    names = [function.name for function in outline(FILE).functions]
    assert names[:3] == ["one", "SYSCALL_DEFINE1(two)", "counts"]
    assert names[3:] == ["of", "local", "named", "three"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "int f(void)\n{\n\t#define N 4\n\treturn N;\n}\nstruct s { int a[N]; };\n",
            "int f(void)\n{\n\t#define N 8\n\treturn N;\n}\nstruct s { int a[N]; };\n",
        ),
        ("\n  #define I(x) { .a = x }\n", "\n  #define I(x) { .a = x, .b = 1 }\n"),
        ("typedef struct __aligned(8) { int a; } t;", "typedef struct __aligned(8) { long a; } t;"),
        (
            "struct __packed __aligned(8) { int a; } t;",
            "struct __packed __aligned(8) { long a; } t;",
        ),
        (
            "void f(void) { struct __attribute__((packed)) q { int a; } x; use(&x); }",
            "void f(void) { struct __attribute__((packed)) q { long a; } x; use(&x); }",
        ),
    ],
)
def test_a_declaration_in_disguise_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(old)
    assert changes_declarations({"x.c": new.encode()}, tmp_path)
