# SPDX-License-Identifier: GPL-2.0-or-later
"""From the texts of files to the functions and declarations that a fix changes."""

from __future__ import annotations

from livegraft.extract.hunks import SourceChanges, source_changes

FILE = """\
#define LIMIT 4
struct pair { int a; int b; };

int first(struct pair *p)
{
	return p->a;
}

int second(struct pair *p)
{
	return p->b + LIMIT;
}
"""


def changes(*edits: tuple[str, str]) -> SourceChanges:
    text = FILE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return source_changes({"a.c": FILE}, {"a.c": text})


def functions(found: SourceChanges) -> dict[str, list[str]]:
    return {each.name: [str(place) for place in each.places] for each in found.functions}


def test_each_hunk_belongs_to_its_function() -> None:
    found = changes(("p->a;", "p->b;"), ("p->b + LIMIT", "p->a +\n\t\tLIMIT"))
    assert functions(found) == {"first": ["a.c:6"], "second": ["a.c:11-12"]}
    assert not found.declarations


def test_moved_functions_are_not_changed() -> None:
    assert functions(changes(("struct pair {", "\n\n/* new */\nstruct pair {"))) == {}


def test_a_new_function_and_one_that_is_gone() -> None:
    found = changes(("int second(struct pair *p)", "int third(struct pair *p)"))
    assert set(functions(found)) == {"second", "third"}
    assert not found.declarations


def test_declarations_are_named() -> None:
    (limit,) = changes(("LIMIT 4", "LIMIT 5")).declarations
    assert limit.names == frozenset({"LIMIT"})
    assert str(limit.place) == "a.c:1"
    (member,) = changes(("int b; }", "long b; }")).declarations
    assert str(member.place) == "a.c:2"
    (added,) = changes(("struct pair {", "static int added;\nstruct pair {")).declarations
    assert "added" in added.names


def test_a_new_and_a_deleted_file() -> None:
    assert set(functions(source_changes({}, {"a.c": FILE}))) == {"first", "second"}
    assert set(functions(source_changes({"a.c": FILE}, {"a.c": ""}))) == {"first", "second"}


def test_a_comment_changes_nothing() -> None:
    found = changes(("return p->a;", "return p->a; /* a */"))
    assert not found.functions
    assert not found.declarations
