# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a function is in the set: a small source for each cause, compiled by the real compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.compare_pairs import SECTIONS, compiled

from livegraft.compare.comparison import compare_objects
from livegraft.extract.clones import FLAG, Clones, parse_clones
from livegraft.extract.hunks import source_changes
from livegraft.extract.reasons import Cause, Why, reasons, table

UNIT = "fs/unit.c"

CALLER = "int caller(int x) { return callee(x) + callee(x + 1); }\n"
LOOPS = "int s = 0; for (int i = 0; i < x; i++) s += outside(s ^ i) * outside(i); return s"


def explained(before: str, after: str, folder: Path) -> tuple[Why, ...]:
    """The causes of a change of a unit."""
    objects, clones = [], list[Clones]()
    for name, text in (("before", before), ("after", after)):
        dump = folder / f"{name}.clones"
        objects.append(compiled(text, folder, f"{name}.o", (*SECTIONS, f"{FLAG}{dump}")))
        clones.append(parse_clones(dump.read_text("utf-8")))
    comparison = compare_objects(*objects)
    changes = source_changes({UNIT: before}, {UNIT: after})
    return reasons(comparison, changes, (clones[0], clones[1]))


def of(whys: Sequence[Why], function: str) -> dict[Cause, Why]:
    """The causes of one function."""
    return {each.cause: each for each in whys if each.function == function}


def test_a_hunk_is_named_by_its_lines(tmp_path: Path) -> None:
    before = "int first(int x)\n{\n\treturn outside(x);\n}\nint second(int x) { return x; }\n"
    whys = explained(before, before.replace("outside(x)", "outside(x + 1)"), tmp_path)
    (why,) = whys
    assert (why.function, why.cause, [str(place) for place in why.places]) == (
        *("first", Cause.HUNK),
        ["fs/unit.c:3"],
    )


def test_removed_lines_are_a_hunk_too(tmp_path: Path) -> None:
    before = 'int first(int x)\n{\n\tx++;\n\tprintk("");\n\treturn outside(x);\n}\n'
    (why,) = explained(before, before.replace('\tprintk("");\n', ""), tmp_path)
    assert (why.cause, [str(place) for place in why.places]) == (Cause.HUNK, ["fs/unit.c:3"])


def test_a_comment_is_no_hunk(tmp_path: Path) -> None:
    before = (
        "#define STEP 1\nint first(int x) { return outside(x + STEP); }\n"
        "int second(int x) { return outside(x); }\n"
    )
    after = before.replace("{ return outside(x);", "{ /* x */ return outside(x);")
    whys = explained(before, after.replace("STEP 1", "STEP 2"), tmp_path)
    assert {why.function for why in whys} == {"first"}


def test_a_changed_function_that_is_inlined_takes_its_callers_along(tmp_path: Path) -> None:
    before = (
        "static inline int inner(int x) { return x * 3; }\n"
        "static inline int outer(int x) { return inner(x) + 1; }\n"
        "int caller(int x) { return outside(outer(x)); }\n"
        "int other(int x) { return outside(x); }\n"
    )
    whys = explained(before, before.replace("* 3", "* 5"), tmp_path)
    (why,) = whys
    assert (why.function, why.cause) == ("caller", Cause.INLINED)
    assert why.via == ("inner", "outer", "caller")
    assert [str(place) for place in why.places] == ["fs/unit.c:1"]


def test_callers_of_a_changed_clone(tmp_path: Path) -> None:
    """``callee.constprop.0`` cannot be redirected for new callers: each patched one is named."""
    before = (
        f"static noinline int callee(int x, int y) {{ x *= y; {LOOPS}; }}\n"
        "int caller(int x) { return callee(x, 3) + callee(x + 1, 3); }\n"
    )
    after = before.replace("x *= y", "x -= y").replace("callee(x + 1, 3)", "callee(x + 2, 3)")
    whys = explained(before, after, tmp_path)
    assert of(whys, "caller")[Cause.CLONE].via == ("callee.constprop.0",)
    assert Cause.HUNK in of(whys, "callee.constprop.0")


def test_a_caller_of_an_ordinary_changed_function_has_no_clone(tmp_path: Path) -> None:
    before = f"__attribute__((noipa)) int callee(int x) {{ {LOOPS}; }}\n{CALLER}"
    after = before.replace("s ^ i", "s | i").replace("x + 1", "x + 2")
    assert of(explained(before, after, tmp_path), "caller").keys() == {Cause.HUNK}


TWINS = (
    f"static noinline int one(int x) {{ {LOOPS}; }}\n"
    f"static noinline int two(int x) {{ {LOOPS}; }}\n"
    "int first(int x) { return one(x) * 2; }\n"
    "int second(int x) { return two(x) * 3; }\n"
)


def test_folded_twins_come_apart(tmp_path: Path) -> None:
    one, two = TWINS.splitlines(keepends=True)[:2]
    after = TWINS.replace(two, two.replace("s ^ i", "s | i"))
    whys = explained(TWINS, after, tmp_path)
    functions = {why.function for why in whys}
    caller = "second" if "second" in functions else "first"
    assert set(of(whys, caller)[Cause.FOLDED].via) == {"one", "two"}
    assert all(of(whys, each).keys() <= {Cause.HUNK, Cause.FOLDED} for each in functions)
    assert "two" in functions or "one" in functions
    assert one in after


def test_twins_that_stay_folded(tmp_path: Path) -> None:
    """Both change in the same way: the one that the symbol table names first stands for two."""
    whys = explained(TWINS, TWINS.replace("s ^ i", "s | i"), tmp_path)
    (function,) = {why.function for why in whys}
    other = {"one": "two", "two": "one"}[function]
    assert of(whys, function)[Cause.FOLDED].via == (other,)


def test_functions_that_are_not_the_same_are_not_folded(tmp_path: Path) -> None:
    before = TWINS.replace("s ^ i", "s & i", 1)
    whys = explained(before, before.replace("s ^ i", "s | i"), tmp_path)
    assert [why.cause for why in whys] == [Cause.HUNK]


UNTRACED = (
    "static __attribute__((noipa, no_instrument_function)) int callee(int x)\n"
    "{ return outside(x) * 3; }\n" + CALLER
)


def test_callers_bring_along_what_ftrace_cannot_redirect(tmp_path: Path) -> None:
    whys = explained(UNTRACED, UNTRACED.replace("* 3", "* 5"), tmp_path)
    assert of(whys, "caller").keys() == {Cause.UNTRACED}
    assert of(whys, "caller")[Cause.UNTRACED].via == ("callee",)
    assert of(whys, "callee").keys() == {Cause.HUNK}


def test_what_ftrace_redirects_leaves_its_callers_alone(tmp_path: Path) -> None:
    before = UNTRACED.replace(", no_instrument_function", "")
    whys = explained(before, before.replace("* 3", "* 5"), tmp_path)
    assert [why.function for why in whys] == ["callee"]


def test_what_the_fix_asks_for(tmp_path: Path) -> None:
    mark = (
        'asm(".pushsection .livegraft.marks,\\"\\"\\n.asciz \\"force-changed=caller\\"\\n'
        '.popsection");\n'
    )
    before = "int callee(int x) { return outside(x); }\nint caller(int x) { return x; }\n"
    whys = explained(before, f"{before}{mark}", tmp_path)
    assert [(why.function, why.cause) for why in whys] == [("caller", Cause.MARKED)]


def test_a_changed_macro_names_who_uses_it(tmp_path: Path) -> None:
    before = "#define STEP \\\n\t3\nint first(int x)\n{\n\treturn outside(x + STEP);\n}\n"
    (why,) = explained(before, before.replace("\t3", "\t5"), tmp_path)
    assert (why.function, why.cause, why.via) == ("first", Cause.DECLARED, ("STEP",))
    assert [str(place) for place in why.places] == ["fs/unit.c:1"]


def test_a_function_that_a_macro_defines_is_found_by_its_line(tmp_path: Path) -> None:
    before = (
        "#define CALL(name, type) static inline int do_##name(type x); "
        "int call_##name(type x) { return do_##name(x); } static inline int do_##name(type x)\n"
        "CALL(it, int)\n{\n\treturn outside(x) + 1;\n}\n"
    )
    whys = explained(before, before.replace("+ 1", "+ 2"), tmp_path)
    assert of(whys, "call_it")[Cause.HUNK].places[0].first == 4


LEARNT = (
    "static noinline __attribute__((noclone)) int callee(int x) { return x * 3; }\n"
    "int caller(int x) { return callee(x) + callee(x); }\n"
)


def test_what_a_caller_learnt_is_told_nowhere(tmp_path: Path) -> None:
    """A call is left out whose result is known, as long as the callee does nothing else."""
    whys = explained(LEARNT, LEARNT.replace("return x * 3", "return outside(x)"), tmp_path)
    assert of(whys, "caller").keys() == {Cause.UNLOGGED}
    assert of(whys, "caller")[Cause.UNLOGGED].via == ("callee",)


def test_a_caller_that_learns_nothing_is_not_in_the_set(tmp_path: Path) -> None:
    before = LEARNT.replace("noclone", "noipa")
    whys = explained(before, before.replace("return x * 3", "return outside(x)"), tmp_path)
    assert [why.function for why in whys] == ["callee"]


def test_a_new_function(tmp_path: Path) -> None:
    before = "int caller(int x) { return outside(x); }\n"
    added = f"static __attribute__((noipa)) int added(int x) {{ {LOOPS}; }}\n"
    after = added + before.replace("outside(x)", "added(x)")
    whys = explained(before, after, tmp_path)
    assert of(whys, "added").keys() == {Cause.NEW}
    assert of(whys, "added")[Cause.NEW].via == ("caller",)
    assert of(whys, "caller").keys() == {Cause.HUNK}


def test_causes_as_a_table_and_as_a_document(tmp_path: Path) -> None:
    before = "int first(int x)\n{\n\treturn outside(x);\n}\n"
    whys = explained(before, before.replace("(x);", "(-x);"), tmp_path)
    assert "| `first` | hunk | the fix changes it (fs/unit.c:3) |" in table(whys)
    assert [why.as_json() for why in whys] == [
        {"function": "first", "cause": "hunk", "via": [], "places": ["fs/unit.c:3"]}
    ]


def test_every_cause_has_a_text() -> None:
    assert all(str(Why("f", cause)) for cause in Cause)


@pytest.mark.parametrize("line", ["Callgraph clone;a;1", "Callgraph moved;a;1;a.c;1;1", "x"])
def test_a_dump_that_is_not_known_is_an_error(line: str) -> None:
    from livegraft.errors import BuildError

    with pytest.raises(BuildError, match="not known"):
        parse_clones(line)
