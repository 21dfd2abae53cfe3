# SPDX-License-Identifier: GPL-2.0-or-later
"""A changed initial value is named by its place in the variable, with the callback that sets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compare_pairs import SECTIONS, compared

from livegraft.errors import Reason

TYPES = (*SECTIONS, "-g")

CODE = """
struct limits { short low, high; };
struct operations {
    int (*open)(int), (*close)(int);
    const char *name;
    struct limits limits[2];
    int *where;
    char tag[8];
    unsigned long flags;
};
int place, other;
static int f(int x) { return outside(x); }
static int g(int x) { return outside(x + 1); }
%s struct operations ops = {
    .open = f, .name = "old", .limits = { { 1, 2 }, { 3, -4 } }, .where = &place, .tag = "a",
    .flags = 5,
};
struct operations *get(int x) { g(x); return (struct operations *)&ops; }
"""

CASES = {
    "number": (".flags = 5", ".flags = 6", "ops.flags was 5 and would be 6", "ops.flags = 6;"),
    "negative": ("-4", "-5", "ops.limits[1].high was -4 and would be -5", "high = -5;"),
    "function": (".open = f", ".open = g", "ops.open was f and would be g", "ops.open = g;"),
    "added": (".name", ".close = g, .name", "ops.close was NULL and would be g", "close = g;"),
    "removed": (
        ".where = &place, ", "", "ops.where was &place and would be NULL", "ops.where = NULL;",
    ),
    "pointer": ("&place,", "&other,", "ops.where was &place and would be &other", "= &other;"),
    "string": ('"old"', '"new"', 'ops.name was "old" and would be "new"', 'ops.name = "new";'),
    "characters": ('.tag = "a"', '.tag = "bc"', 'ops.tag was "a" and would be "bc"', "ops.tag ="),
}  # fmt: skip


def reason(old: str, new: str, folder: Path, storage: str = "", *flags: str) -> Reason:
    before = CODE % storage
    assert before.count(old) == 1
    after = before.replace(old, new)
    found = compared(before, after, folder, flags or TYPES).reasons
    (only,) = [each for each in found if each.rule == "data-changed"]
    assert only.object == "ops"
    return only


@pytest.mark.parametrize("case", CASES)
def test_the_value_is_named_and_the_callback_offered(case: str, tmp_path: Path) -> None:
    old, new, message, code = CASES[case]
    found = reason(old, new, tmp_path)
    assert message in found.message
    assert found.message.count(" was ") == 1
    assert code in found.remedy
    assert "static void set_ops(struct klp_object *object) {" in found.remedy
    assert "LIVEGRAFT_POST_PATCH(set_ops)" in found.remedy
    assert 'LIVEGRAFT_IGNORE_SECTION(".data.ops")' in found.remedy


def test_several_values_are_named(tmp_path: Path) -> None:
    found = reason("{ { 1, 2 }, { 3, -4 } }", "{ { 2, 1 }, { 9, -4 } }", tmp_path)
    assert "low was 1 and would be 2; ops.limits[0].high was 2 and would be 1; " in found.message
    assert "ops.limits[0].low = 2; ops.limits[0].high = 1; ops.limits[1].low = 9;" in found.remedy


def test_a_constant_is_set_through_another_mapping(tmp_path: Path) -> None:
    found = reason(".flags = 5", ".flags = 6", tmp_path, "const")
    assert "return LIVEGRAFT_SET(ops.flags, 6); }" in found.remedy
    assert "LIVEGRAFT_PRE_PATCH(set_ops)" in found.remedy


def test_without_debug_information_the_distance_is_told(tmp_path: Path) -> None:
    found = reason(".open = f", ".open = g", tmp_path, "", *SECTIONS)
    assert "ops+0 was f and would be g" in found.message
    assert "LIVEGRAFT" not in found.remedy
