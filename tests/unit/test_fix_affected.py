# SPDX-License-Identifier: GPL-2.0-or-later
"""The names by which a unit can come to what changes in a header."""

from __future__ import annotations

import pytest

from livegraft.fix.affected import affected

HEADER = """\
#ifndef _A_H
#define _A_H
#include <linux/types.h>
#define FIRST 1
#define TWICE(x) (2 * inner(x))
struct sock { int family; struct sock *next; };
enum kind { RED, GREEN };
extern int known(struct sock *sk);
static inline int inner(int x)
{
	return x + 1;
}
static __always_inline u32 outer(__be32 x) { return TWICE(x); }
static inline int apart(int x) { return x; }
#ifdef CONFIG_B
int global(int x) { return FIRST; }
#endif
#endif
"""

NAMES = {
    "a body": ("return x + 1;", "return x + 2;", {"inner", "TWICE", "outer"}),
    "its head": ("apart(int x)", "apart(long x)", {"apart"}),
    "a member": ("int family;", "int family, more;", {"sock", "known"}),
    "a prototype": ("known(struct", "known(int x, struct", {"known"}),
    "an enumerator": ("GREEN", "GREEN, BLUE", {"kind", "RED", "GREEN", "BLUE"}),
    "a new macro": ("#define FIRST 1", "#define FIRST 1\n#define SECOND 2", {"SECOND"}),
    "another macro": ("2 * inner(x)", "3 * inner(x)", {"TWICE", "outer"}),
    "a new function": ("enum", "static inline void more(void) { }\nenum", {"more"}),
    "nothing but lines": ("enum", "\n/* Here. */\nenum", set()),
}


@pytest.mark.parametrize("case", NAMES)
def test_the_names_are_found(case: str) -> None:
    old, new, names = NAMES[case]
    assert old in HEADER
    assert affected([(HEADER, HEADER.replace(old, new, 1))]) == frozenset(names)


UNCLEAR = {
    "an include": ("#include <linux/types.h>", "#include <linux/list.h>"),
    "a condition": ("#ifdef CONFIG_B", "#ifdef CONFIG_C"),
    "what a condition asks": ("#define _A_H", "#define _A_H 2"),
    "a variable": ("enum", "int more;\nenum"),
    "a function that stays": ("int global(int x) {", "int global(long x) {"),
    "what such a function uses": ("#define FIRST 1", "#define FIRST 2"),
    "an attribute that may keep it": ("inline int apart", "inline __bpf_kfunc int apart"),
    "several names": ("extern int known", "extern int a, b;\nextern int known"),
    "another order": (
        "struct sock { int family; struct sock *next; };\nenum kind { RED, GREEN };\n",
        "enum kind { RED, GREEN };\nstruct sock { int family; struct sock *next; };\n",
    ),
    "a pragma": ("enum", "#pragma pack(1)\nenum"),
    "an assertion": ("enum", "static_assert(1);\nenum"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_understood_has_no_names(case: str) -> None:
    old, new = UNCLEAR[case]
    assert old in HEADER
    found = affected([(HEADER, HEADER.replace(old, new, 1))])
    # Of what looks like a function the name is that of a macro, which all readers use.
    assert found is None or (case == "an assertion" and found == frozenset(("static_assert",)))


def test_files_are_taken_together() -> None:
    """One header's macro changes, and another one's function uses it."""
    other = "static inline int second(void) { return FIRST; }\n"
    changed = HEADER.replace("int global(int x) { return FIRST; }\n", "")
    both = [(changed, changed.replace("FIRST 1", "FIRST 2")), (other, other)]
    assert affected(both) == frozenset(("FIRST", "second"))


def test_too_many_names_are_none() -> None:
    """They are found one after the other: each uses the one before."""
    chain = "".join(
        f"static inline int f{n}(void) {{ return f{n - 1}(); }}\n" for n in range(1, 400)
    )
    first = "static inline int f0(void) { return 0; }\n"
    assert affected([(first + chain, first.replace("0;", "1;") + chain)]) is None
