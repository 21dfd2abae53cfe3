# SPDX-License-Identifier: GPL-2.0-or-later
"""ENDBR64 at the entries of what is cut out: where the whole unit has it, and who needs it."""

from __future__ import annotations

from pathlib import Path

from tests.compare_pairs import SECTIONS, compared, compiled

from livegraft.compare.comparison import Comparison
from livegraft.errors import CompileError
from livegraft.extract.delivery import deliver
from livegraft.extract.endbr import FLAG, marked, only_called, suffix
from livegraft.extract.twoways import Apart, Build, Class, Difference, Equal, Way, compare_ways

TRACKED = (*SECTIONS, "-fcf-protection=branch")
MARK = """
static const void *const __livegraft_patches_callee
    __attribute__((used, section(".livegraft.patches"))) = (callee);
"""
CALLEE = """\
static noinline int callee(int x)
{
\tint s = 0;
\tfor (int i = 0; i < x; i++)
\t\ts += outside(s ^ i) * outside(i);
\treturn s + STEP;
}
"""
CALLS = "int caller(int x) { return callee(x) + callee(outside(x)); }\n"
POINTS = f"{CALLS}int (*pointer(void))(int) {{ return callee; }}\n"
CUT = f"#define STEP 2\n{CALLEE}"
TAKEN = CUT.replace("return s", "s += outside((long)callee);\n\treturn s")
ADDED = "static noinline int added(int x) { return outside(x + 1); }\n"
HANDS_OVER = "s += outside((long)added);\n\treturn s"


class Case:
    """A unit in which a fix changes `callee`, and the text that was cut out of it."""

    def __init__(self, others: str, cut: str, folder: Path, callee: str = CALLEE) -> None:
        self._folder, self._cut = folder, cut + MARK
        before = f"#define STEP 1\n{callee}{others}"
        after = before.replace("STEP 1", "STEP 2")
        self.unit = compared(before, after, folder, TRACKED)
        self.first = self.deliver()

    def deliver(self, more: str = "", *flags: str) -> Comparison:
        built = compiled(self._cut + more, self._folder, "cut.o", (*TRACKED, *flags))
        return deliver(self.unit, built, "fs/unit.c")

    @property
    def called(self) -> frozenset[str]:
        return only_called(self.unit, self.first)

    def again(self) -> Comparison:
        return self.deliver(suffix(self.first.patched, self.called), FLAG)

    def ways(self, extracted: Comparison) -> tuple[Equal | Difference, ...]:
        return compare_ways(self.unit, extracted, self._fail)

    def _fail(self, way: Way, _: Apart) -> Build:
        raise CompileError(way.value, "is not to be built again", "")


def test_what_is_only_called_begins_without(tmp_path: Path) -> None:
    """The negative control first: the mark alone puts an ENDBR64 there, which is a difference."""
    case = Case(CALLS, CUT, tmp_path)
    assert marked(case.unit.patched) == {"caller"}
    assert marked(case.first.patched) == {"callee"}
    (difference,) = case.ways(case.first)
    assert isinstance(difference, Difference)
    assert difference.kind is Class.UNKNOWN
    assert case.called == {"callee"}
    again = case.again()
    assert not marked(again.patched)
    assert case.ways(again) == (Equal("callee"),)


def test_what_the_unit_takes_the_address_of_begins_with_it(tmp_path: Path) -> None:
    case = Case(POINTS, CUT, tmp_path)
    assert "callee" in marked(case.unit.patched)
    assert not case.called
    assert case.ways(case.first) == (Equal("callee"),)


def test_a_callback_begins_with_it(tmp_path: Path) -> None:
    """It is called through a pointer of the module's."""
    section = 'section(".livegraft.callbacks.pre_patch")'
    callback = f"static int (*const pre)(int) __attribute__((used, {section})) = callee;\n"
    case = Case(CALLS, f"{CUT}{callback}", tmp_path)
    assert "callee" not in marked(case.unit.patched)
    assert not case.called


def test_a_pointer_leads_to_the_running_function(tmp_path: Path) -> None:
    """What an editor may add: the new function is not called through it."""
    case = Case(CALLS, TAKEN, tmp_path)
    assert case.called == {"callee"}
    again = case.again()
    (callee,), unit, inclusion = again.changed_entities, again.patched, again.inclusion
    uses = [use for use in unit.uses(callee) if use.target is callee]
    assert [inclusion.means_original(unit, use, callee) for use in uses] == [True]


def test_all_others_keep_theirs(tmp_path: Path) -> None:
    """A new function that the fix hands over, and a global one that the text carries."""
    changed = CALLEE.replace("return s", HANDS_OVER)
    carried = "int carried(int x) { return outside(x) * 3; }\n"
    case = Case(carried + CALLS, f"#define STEP 2\n{ADDED}{changed}{carried}", tmp_path)
    assert case.called == {"callee"}
    assert marked(case.again().patched) == {"added", "carried"}


def test_without_the_declarations_others_would_lose_theirs(tmp_path: Path) -> None:
    """Why the second object is looked at before it is taken: the option leaves all of them out."""
    changed = CALLEE.replace("return s", HANDS_OVER)
    case = Case(CALLS, f"#define STEP 2\n{ADDED}{changed}", tmp_path)
    lost = case.deliver("", FLAG)
    assert marked(case.first.patched) - case.called == {"added"}
    assert not marked(lost.patched)


def test_a_kernel_without_tracking_has_none(tmp_path: Path) -> None:
    before = f"#define STEP 1\n{CALLEE}{CALLS}"
    unit = compared(before, before.replace("STEP 1", "STEP 2"), tmp_path)
    extracted = deliver(unit, compiled(CUT + MARK, tmp_path, "cut.o"), "fs/unit.c")
    assert not only_called(unit, extracted)
