# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ways check each other: a whole unit and a C file with a part of it, really compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.compare_pairs import SECTIONS, compiled

from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.elf.object import ElfObject
from livegraft.errors import CompileError
from livegraft.extract.clones import FLAG, Clones, parse_clones
from livegraft.extract.delivery import deliver
from livegraft.extract.twoways import (
    Apart,
    Build,
    Class,
    Difference,
    Equal,
    Way,
    compare_ways,
    unknown,
)
from livegraft.verdict.judge import judge

MARKS = """
#define LIVEGRAFT_PATCHES(function) static const void *const __livegraft_patches_##function \\
    __attribute__((used, section(".livegraft.patches"))) = (function)
"""
WORK = "int s = 0; for (int i = 0; i < x; i++) s += outside(s ^ i) * outside(i);"

Found = dict[str, Equal | Difference]


class Case:
    """A unit before and after a fix, and what somebody has cut out of it."""

    def __init__(
        self,
        before: str,
        after: str,
        extracted: str,
        patched: str,
        folder: Path,
        flags: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._flags = flags
        self._marks = MARKS + "".join(f"LIVEGRAFT_PATCHES({name});\n" for name in patched.split())
        self._texts = {Way.COMPARE: after, Way.EXTRACT: extracted}
        objects = [self._compiled(text, name)[0] for name, text in (("a", before), ("b", after))]
        self.comparison = judge(compare_objects(*objects))
        assert not self.comparison.reasons
        self.builds: list[tuple[Way, Apart]] = []

    def _compiled(self, text: str, name: str) -> tuple[ElfObject, Clones]:
        dump = self._folder / f"{name}.clones"
        built = compiled(
            text, self._folder, f"{name}.o", (*SECTIONS, *self._flags, f"{FLAG}{dump}")
        )
        return built, parse_clones(dump.read_text("utf-8"))

    def build(self, way: Way, apart: Apart) -> Build:
        self.builds.append((way, apart))
        text = self._texts[way] + self._marks + apart.suffix()
        built, clones = self._compiled(text, f"again{len(self.builds)}")
        return Build(deliver(self.comparison, built, "fs/unit.c"), clones)

    def extract(self) -> Comparison:
        built, _ = self._compiled(self._texts[Way.EXTRACT] + self._marks, "extract")
        return deliver(self.comparison, built, "fs/unit.c")

    def found(self) -> Found:
        judged = compare_ways(self.comparison, self.extract(), self.build)
        return {each.function: each for each in judged}


def only(found: Found) -> Difference:
    """The only one that differs."""
    (difference,) = (each for each in found.values() if isinstance(each, Difference))
    return difference


HELPER = f"static noinline int helper(int x) {{ {WORK} return s; }}\n"
COUNT = "static int count;\nint counted(void) { return count; }\n"
CALLER = """\
int caller(int x)
{
\tcount += STEP;
\tprintk("called with %d\\n", x);
\tWARN_ON(x == 7);
\treturn helper(x) + helper(x + 1);
}
"""
BEFORE = "#define STEP 1\n" + HELPER + COUNT + CALLER
AFTER = BEFORE.replace("STEP 1", "STEP 2")
EXTRACTED = f"#define STEP 2\nextern int helper(int x);\nextern int count;\n{CALLER}"


def test_what_is_cut_out_rightly_is_equal(tmp_path: Path) -> None:
    case = Case(BEFORE, AFTER, EXTRACTED, "caller", tmp_path)
    assert case.found() == {"caller": Equal("caller")}
    assert not case.builds


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("x == 7", "x == 8", "differs at"),
        ("called with %d", "called for %d", "'called with %d\\n' and 'called for %d\\n'"),
        ("extern int count;", "#define count fresh\nstatic int count;", "count and fresh"),
        ("extern int helper(", "#define helper aider\nextern int helper(", "aider"),
        ("WARN_ON(x == 7);", 'asm("1: .byte 0x0f, 0x0b");', ""),
    ],
)
def test_what_is_cut_out_wrongly_is_unknown(old: str, new: str, told: str, tmp_path: Path) -> None:
    """Each is a mistake that the way of cutting could make; none may be explained away."""
    assert old in EXTRACTED
    case = Case(BEFORE, AFTER, EXTRACTED.replace(old, new), "caller", tmp_path)
    difference = only(case.found())
    assert (difference.function, difference.kind) == ("caller", Class.UNKNOWN)
    assert told in difference.where
    (reason,) = unknown("fs/unit.c", [difference])
    assert (reason.rule, reason.object) == ("two-ways-differ", "caller")


def test_a_table_entry_with_other_contents_is_a_difference(tmp_path: Path) -> None:
    """The bytes of the code are equal: the flags of the warning are in ``__bug_table``."""
    warn = CALLER.replace("WARN_ON(x == 7);", "WARN_ON(x == 7);\n\tWARN_ON(x == 9);")
    swapped = warn.replace("WARN_ON(x == 9)", "ONCE(x == 9)")
    once = (
        '#define ONCE(x) do { if (unlikely(x)) asm volatile("1: .byte 0x0f, 0x0b\\n'
        '.pushsection __bug_table,\\"aw\\"\\n2: .long 1b - .\\n.long %c0 - .\\n.word %c1\\n'
        '.word %c2\\n.org 2b+12\\n.popsection\\n" : : "i"(__FILE__), "i"(__LINE__), "i"(3)); '
        "} while (0)\n"
    )
    before = BEFORE.replace(CALLER, warn)
    extracted = once + EXTRACTED.replace(CALLER, swapped)
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", tmp_path)
    difference = only(case.found())
    assert difference.kind is Class.UNKNOWN
    assert "__bug_table" in difference.where


PURE = "static noinline int callee(int x) { return x * 3; }\n"
TWICE = "int caller(int x) { return callee(x) + callee(x) + STEP; }\n"


def test_knowledge_of_a_callee(tmp_path: Path) -> None:
    """The unit's build calls once: it knows that the callee does nothing but return a value."""
    before = f"#define STEP 1\n{PURE}{TWICE}"
    extracted = f"#define STEP 2\nextern int callee(int x);\n{TWICE}"
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", tmp_path)
    difference = only(case.found())
    assert (difference.kind, difference.names) == (Class.KNOWLEDGE, ("callee",))
    assert sum(line.second == "call callee" for line in difference.lines) == 2
    assert "| call callee" in difference.text()
    assert not list(unknown("fs/unit.c", [difference]))


def test_knowledge_does_not_excuse_a_mistake(tmp_path: Path) -> None:
    before = f"#define STEP 1\n{PURE}{TWICE}"
    extracted = f"#define STEP 3\nextern int callee(int x);\n{TWICE}"
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", tmp_path)
    assert only(case.found()).kind is Class.UNKNOWN


def test_knowledge_of_a_variable(tmp_path: Path) -> None:
    """Nothing in the unit writes it after its start."""
    before = "#define STEP 1\nstatic int limit = 5;\nint other(void) { return outside(limit); }\n"
    caller = "int caller(int x) { return outside(x + STEP) + x / limit; }\n"
    extracted = f"#define STEP 2\nextern int limit;\n{caller}"
    after = (before + caller).replace("STEP 1", "STEP 2")
    # The variable is gone from the object, so it cannot be referred to in the running kernel.
    case = Case(before + caller, after, extracted, "caller", tmp_path)
    assert only(case.found()).kind is Class.UNKNOWN


LARGE = f"{WORK} {WORK.replace('int s', 's') * 8} return s;"
INLINE = f"static inline int helper(int x) {{ {LARGE} }}\n"
ONCE = "int caller(int x) { return helper(x) + STEP; }\n"
OTHERS = "".join(f"int other{n}(int x) {{ return helper(x) * {n}; }}\n" for n in range(4))


def test_inlining(tmp_path: Path) -> None:
    """The unit calls it five times, what is cut out only once: so there it is inlined."""
    before = f"#define STEP 1\n{INLINE}{ONCE}{OTHERS}"
    after = before.replace("STEP 1", "STEP 2")
    case = Case(before, after, f"#define STEP 2\n{INLINE}{ONCE}", "caller", tmp_path)
    difference = only(case.found())
    assert (difference.function, difference.kind) == ("caller", Class.INLINING)
    assert difference.names == ("helper",)


def test_inlining_does_not_excuse_a_mistake(tmp_path: Path) -> None:
    before = f"#define STEP 1\n{INLINE}{ONCE}{OTHERS}"
    wrong = INLINE.replace("s ^ i", "s | i", 1)
    after = before.replace("STEP 1", "STEP 2")
    case = Case(before, after, f"#define STEP 2\n{wrong}{ONCE}", "caller", tmp_path)
    assert only(case.found()).kind is Class.UNKNOWN


def test_a_changed_function_that_is_carried_along_only(tmp_path: Path) -> None:
    """Nothing leads those that call it to the new one: this is a hole, not a difference."""
    before = BEFORE.replace("return s;", "return s + STEP;")
    after = before.replace("STEP 1", "STEP 2")
    extracted = after.replace("static int count", "extern int count")
    case = Case(before, after, extracted, "caller counted", tmp_path)
    found = case.found()["helper"]
    assert isinstance(found, Difference)
    assert (found.kind, found.proof) == (
        Class.UNKNOWN,
        "extract's payload does not replace it",
    )


CALLERS = """\
int first(int x) { return callee(x, 3); }
int second(int x) { return callee(x + 1, 3); }
"""


def test_a_clone(tmp_path: Path) -> None:
    """The unit has ``callee.constprop.0``; what is cut out is kept from making one."""
    callee = f"static noinline int callee(int x, int y) {{ {WORK} return s * y + STEP; }}\n"
    callers = CALLERS
    before = f"#define STEP 1\n{callee}{callers}"
    after = before.replace("STEP 1", "STEP 2")
    kept = callee.replace("noinline", "__attribute__((noipa))")
    case = Case(before, after, f"#define STEP 2\n{kept}{callers}", "first second", tmp_path)
    found = case.found()
    assert set(found) == {"first", "second", "callee", "callee.constprop.0"}
    kinds = {name: each.kind for name, each in found.items() if isinstance(each, Difference)}
    assert kinds == dict.fromkeys(found, Class.CLONE)


def test_a_caller_that_one_way_leaves_where_it_is(tmp_path: Path) -> None:
    """Compare replaces the clone, extract its callers. The target of a static branch goes along."""
    callee = f"static noinline int callee(int x, int y) {{ {WORK} return s * y + STEP; }}\n"
    branch = "if (static_branch(&key))\n\t\tx = outside(x);\n\t"
    key, callers = "extern struct static_key key;\n", CALLERS.replace("return", f"{branch}return")
    before = f"#define STEP 1\n{key}{callee}{callers}"
    after = before.replace("STEP 1", "STEP 2")
    case = Case(before, after, after, "first second", tmp_path)
    names = ("callee.constprop.0", "first", "second")
    assert {each.name for each in case.comparison.changed_entities} == {names[0]}
    assert case.found() == {name: Equal(name) for name in names}
    elsewhere = after.replace("x = outside(x);", "x = outside(x);\n\telse\n\t\tx = outside(~x);")
    case = Case(before, after, elsewhere, "first second", tmp_path)
    kinds = {name: getattr(each, "kind", None) for name, each in case.found().items()}
    assert (kinds["first"], kinds["second"]) == (Class.UNKNOWN, Class.UNKNOWN)


def test_a_clone_whose_callers_stay_behind(tmp_path: Path) -> None:
    """The negative control: one caller of the clone keeps calling the old one."""
    callee = f"static noinline int callee(int x, int y) {{ {WORK} return s * y + STEP; }}\n"
    callers = CALLERS
    before = f"#define STEP 1\n{callee}{callers}"
    after = before.replace("STEP 1", "STEP 2")
    extracted = f"#define STEP 2\n{callee}{callers.splitlines()[0]}"
    found = Case(before, after, extracted, "first", tmp_path).found()
    difference = found["callee.constprop.0"]
    assert isinstance(difference, Difference)
    assert (difference.kind, difference.names) == (Class.UNKNOWN, ("second",))


def test_a_function_that_is_left_out(tmp_path: Path) -> None:
    more = "int second(int x) { return helper(x) + STEP; }\n"
    case = Case(BEFORE + more, AFTER + more, EXTRACTED, "caller", tmp_path)
    difference = only(case.found())
    assert (difference.function, difference.kind) == ("second", Class.UNKNOWN)


BRANCHES = """\
int caller(int x)
{
\tif (CONDITION(x == 7)) {
\t\tWARN_ON(count == 3);
\t\tcount = outside(5);
\t\tcount = outside(4);
\t}
\tcount = outside(count);
\tcount = outside(count + 1);
\treturn outside(count) + STEP;
}
"""


def branches(folder: Path, extracted: str) -> Equal | Difference:
    before = f"#define CONDITION(x) unlikely(x)\n#define STEP 1\n{COUNT}{BRANCHES}"
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", folder)
    (found,) = case.found().values()
    return found


LIKELY = "#define STEP 2\n#define CONDITION(x) __builtin_expect(x, 1)\nextern int count;\n"


def test_another_order_of_blocks(tmp_path: Path) -> None:
    found = branches(tmp_path, LIKELY + BRANCHES)
    assert isinstance(found, Difference)
    assert (found.kind, found.function) == (Class.LAYOUT, "caller")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x == 7", "x != 7"),
        ("x == 7", "x >= 7"),
        ("count == 3", "count == 4"),
        ("outside(5)", "outside(6)"),
        ("WARN_ON(count == 3);", ""),
        ("WARN_ON(count == 3)", 'if (unlikely(count == 3)) asm volatile(".byte 0x0f, 0x0b")'),
        ("count = outside(5)", "count = printk((char *)5)"),
        ("\t\tcount = outside(4);\n", "\t\toutside(4);\n"),
    ],
)
def test_order_does_not_excuse_a_mistake(old: str, new: str, tmp_path: Path) -> None:
    assert BRANCHES.count(old) == 1
    found = branches(tmp_path, LIKELY + BRANCHES.replace(old, new))
    assert isinstance(found, Difference)
    assert found.kind is Class.UNKNOWN


ENDBR = """\
{0} int callee(int x)
{{
\tint s = 0;
\tcount += STEP;
\tfor (int i = 0; i < x; i++)
\t\ts += outside(s ^ i) * outside(i);
\treturn s + outside(x) / {1};
}}
"""
ENDBR_CALLER = "int caller(int x) { return callee(x) + callee(outside(x)); }\n"


@pytest.mark.parametrize(
    ("divisor", "kind"), [("3", Class.KNOWLEDGE), ("5", Class.UNKNOWN)], ids=["right", "wrong"]
)
def test_an_endbr_at_the_entry(divisor: str, kind: Class, tmp_path: Path) -> None:
    """Only the mark of what is replaced takes its address: what the compiler knows of its users."""
    before = "#define STEP 1\n" + COUNT + ENDBR.format("static noinline", "3") + ENDBR_CALLER
    cut = "#define STEP 2\nextern int count;\n" + ENDBR.format("static", divisor)
    after = before.replace("STEP 1", "STEP 2")
    case = Case(before, after, cut, "callee", tmp_path, ("-fcf-protection=branch",))
    assert only(case.found()).kind is kind


def test_a_build_that_fails_proves_nothing(tmp_path: Path) -> None:
    before = f"#define STEP 1\n{PURE}{TWICE}"
    extracted = f"#define STEP 2\nextern int callee(int x);\n{TWICE}"
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", tmp_path)

    def fail(way: Way, apart: Apart) -> Build:
        raise CompileError(way.value, "does not compile\nmore", "")

    (difference,) = compare_ways(case.comparison, case.extract(), fail)
    assert isinstance(difference, Difference)
    assert difference.kind is Class.UNKNOWN
    assert difference.proof == "a further build failed: does not compile"


def test_both_have_to_be_compared_with_one_original(tmp_path: Path) -> None:
    first = Case(BEFORE, AFTER, EXTRACTED, "caller", tmp_path)
    second = Case(BEFORE, AFTER, EXTRACTED, "caller", tmp_path)
    with pytest.raises(ValueError, match="one original"):
        compare_ways(first.comparison, second.extract(), first.build)


def test_as_documents(tmp_path: Path) -> None:
    before = f"#define STEP 1\n{PURE}{TWICE}"
    extracted = f"#define STEP 2\nextern int callee(int x);\n{TWICE}"
    case = Case(before, before.replace("STEP 1", "STEP 2"), extracted, "caller", tmp_path)
    document = only(case.found()).as_json()
    assert document["class"] == "knowledge"
    assert document["names"] == ["callee"]
    assert {"compare": "", "extract": "call callee"} in list(document["listing"])  # type: ignore[call-overload]
    assert Equal("f").as_json() == {"function": "f", "equal": True}
