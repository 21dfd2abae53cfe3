# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks of ``livegraft.h`` as a plain compiler leaves them, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compare_pairs import compared, compiled, names_of, payload, rules

from livegraft.changeset import CallbackKind, State, SystemState
from livegraft.compare.entity import Entity
from livegraft.compare.marks import marks_of
from livegraft.compare.unit import Unit
from livegraft.elf import object as elf
from livegraft.errors import ElfError

HEADER = r"""
#define PLACE(name) __attribute__((used, section(".livegraft." name)))
#define MARK2(text, n) \
    static const char mark##n[] __attribute__((aligned(1))) PLACE("marks") = text;
#define MARK1(text, n) MARK2(text, n)
#define MARK(text) MARK1(text, __COUNTER__)
struct state { unsigned long id, version; };
#define STATE(id, version) static const struct state state_##id PLACE("states") = { id, version };
#define CALLBACK(kind, f) static int (*const call_##kind)(void *) PLACE("callbacks." #kind) = f;
"""

BEFORE = """
int limit = 3;
noinline int f(int x) { return outside(x) + 1; }
noinline int g(int x) { return outside(x) + 2; }
int h(int x) { return f(x) * g(x); }
"""


def test_what_is_read(tmp_path: Path) -> None:
    source = f"""{HEADER}{BEFORE}
    static int begin(void *object) {{ return outside(4); }}
    CALLBACK(pre_patch, begin) CALLBACK(post_unpatch, begin)
    STATE(7, 2) STATE(3, 9)
    MARK("force-changed=f") MARK("ignore-function=g") MARK("ignore-section=.data.limit")
    MARK("accept-layout=struct foo") MARK("accept-layout=union bar")
    """
    marks = marks_of(Unit(compiled(source, tmp_path, "a.o"), "object"))
    found = [(kind, each.name) for kind, each in marks.callbacks if isinstance(each, Entity)]
    assert found == [(CallbackKind.PRE_PATCH, "begin"), (CallbackKind.POST_UNPATCH, "begin")]
    assert marks.states == (SystemState(3, 9), SystemState(7, 2))
    assert marks.forced == {"f"}
    assert marks.ignored_functions == {"g"}
    assert marks.ignored_sections == {".data.limit"}
    assert marks.accepted_layouts == {"struct foo", "union bar"}


@pytest.mark.parametrize(
    "mark",
    [
        'MARK("forced-changed=f")',
        'MARK("force-changed=")',
        "CALLBACK(mid_patch, f)",
        'static const int odd PLACE("states") = 1;',
        'static int (*const inner)(int) PLACE("callbacks.pre_patch") = (void *)f + 1;',
    ],
)
def test_what_is_not_known_raises(mark: str, tmp_path: Path) -> None:
    unit = Unit(compiled(f"{HEADER}{BEFORE}{mark}", tmp_path, "a.o"), "object")
    with pytest.raises(ElfError):
        marks_of(unit)


def test_marks_come_with_no_code(tmp_path: Path) -> None:
    after = HEADER + BEFORE.replace("+ 2", "+ 3") + 'STATE(7, 2) MARK("force-changed=h")'
    made = payload(compared(BEFORE, after, tmp_path))
    assert {each.target.name for each in made.piece.functions} == {"g", "h"}
    obj = elf.parse(made.piece.data)
    assert not [each.name for each in obj.sections if "livegraft" in each.name]
    assert not [name for name in names_of(obj) if name.startswith(("mark", "state_"))]


def test_a_function_is_forced_or_left(tmp_path: Path) -> None:
    after = HEADER + BEFORE.replace("+ 1", "+ 5").replace("+ 2", "+ 3")
    comparison = compared(BEFORE, f'{after}MARK("ignore-function=f")', tmp_path)
    assert (comparison.changed, rules(comparison)) == (("g",), set())
    assert any(each.startswith("f: is changed by the fix") for each in comparison.warnings)
    comparison = compared(BEFORE, f'{HEADER}{BEFORE}MARK("force-changed=f")', tmp_path)
    assert comparison.changed == ("f",)


def test_data_are_left(tmp_path: Path) -> None:
    after = HEADER + BEFORE.replace("= 3", "= 4")
    assert rules(compared(BEFORE, after, tmp_path)) == {"data-changed"}
    comparison = compared(BEFORE, f'{after}MARK("ignore-section=.data.limit")', tmp_path)
    assert (rules(comparison), comparison.changed) == (set(), ())
    assert any(".data.limit" in each for each in comparison.warnings)


def test_a_callback_comes_along(tmp_path: Path) -> None:
    """It is a new function that nothing else uses; what it needs comes with it."""
    after = f"""{HEADER}{BEFORE}
    static int count = 5;
    static int begin(void *object) {{ return outside(count++) + f(1); }}
    CALLBACK(pre_patch, begin)"""
    made = payload(compared(BEFORE, after, tmp_path))
    (callback,) = made.piece.callbacks
    assert (callback.kind, callback.name) == (CallbackKind.PRE_PATCH, "begin")
    assert [(each.target.name, each.state) for each in made.piece.functions] == [
        ("begin", State.NEW)
    ]
    symbols = {symbol.name: symbol for symbol in elf.parse(made.piece.data).symbols}
    assert symbols[callback.symbol].in_section
    assert {"count", "begin"} <= symbols.keys()
    assert {each.target.name for each in made.piece.references} == {"f", "outside"}


@pytest.mark.parametrize(
    "declared", ["extern int old(void *x);", "noinline int old(void *x) { return outside(1); }"]
)
def test_a_callback_that_is_not_new_is_refused(declared: str, tmp_path: Path) -> None:
    """The running one would be called, or an original of which the patch has the new version."""
    before = f"{BEFORE}{declared}"
    comparison = compared(before, f"{HEADER}{before}CALLBACK(pre_patch, old)", tmp_path)
    assert rules(comparison) == {"mark-target"}
