# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of types: what moves in memory is refused, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tests.compare_pairs import SECTIONS, compared, compiled, rules

from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.spelling import Member
from livegraft.compare.types import Types, types_of
from livegraft.compare.unit import Unit
from livegraft.elf.dwarf import read_debug_information
from livegraft.elf.object import parse
from livegraft.errors import ElfError, Reason
from livegraft.verdict.judge import judge_all
from livegraft.verdict.types import type_reasons

TYPES = (*SECTIONS, "-g")

CODE = """
enum kind { PLAIN, SPECIAL, NR_KINDS };
struct inner { int a; long b; };
typedef struct { int counter; } count_t;
struct other { struct inner in; int last; };
struct thing {
    int first;
    unsigned low : 3, high : 5;
    enum kind kind;
    struct inner in[2];
    count_t count;
    struct { char x, y; } pair;
    union { int u; char *v; };
    struct later *next;
    int (*call)(struct thing *, int);
};
int tell(struct thing *t, int x) { return outside(t->in[1].a + t->count.counter + t->low + x); }
int other_tell(struct other *o) { return outside(o->last) + 1; }
enum kind kind_of(struct thing *t) { return t->first ? SPECIAL : t->kind; }
int pairs(struct thing *t) { return t->pair.x + t->pair.y + t->u; }
int of(void) { struct { int p, q; } local = { outside(1), outside(2) }; return local.p * local.q; }
static struct { int one; short two, three; } table[2] = { { 1, 2, 3 } };
int look(int x) { return table[x].one + table[x].two + outside(x); }
void set(int x) { table[x].one = table[x].three = x; }
static inline int tally(int x) { static int sum; return sum += x; }
int counted(int x) {
    static long seen;
    static struct { int low, high; } range = { 1, 2 };
    if (x) { static int sum = 7; sum ^= x; seen += sum; }
    return seen++ * tally(x) / range.low++ + tally(x + 1) - range.high++;
}
"""

CHANGED: dict[str, tuple[str, str, str, str, str]] = {
    "member-added": (
        "    int first;", "    int first;\n    long more[2];",
        "structure-layout", "struct thing", "more (16 bytes at byte 8) is new",
    ),
    "member-in-a-hole": (
        "count_t count;", "count_t count; char hole;",
        "structure-layout", "struct thing", "hole (1 byte at byte 52) is new",
    ),
    "member-removed": (
        "    union { int u; char *v; };", "    union { int u; };",
        "structure-layout", "struct thing", "v (8 bytes at byte 56) is gone",
    ),
    "members-swapped": (
        "{ char x, y; }", "{ char y, x; }",
        "structure-layout", "struct thing", "pair.x moves from byte 52 to byte 53",
    ),
    "array-longer": (
        "struct inner in[2];", "struct inner in[3];",
        "structure-layout", "struct thing", "in was struct inner[2] and would be struct inner[3]",
    ),
    "bit-field": (
        "low : 3, high : 5", "low : 2, high : 6",
        "structure-layout", "struct thing", "low had 3 bits and would have 2 bits",
    ),
    "type-of-member": (
        "    int first;", "    unsigned first;",
        "structure-layout", "struct thing", "first was int and would be unsigned int",
    ),
    "pointer-to-another": (
        "struct later *next", "struct inner *next",
        "structure-layout", "struct thing", "next was struct later * and would be struct inner *",
    ),
    "callback": (
        "int (*call)(struct thing *, int);", "int (*call)(struct thing *, long);",
        "structure-layout", "struct thing",
        "call was int (*)(struct thing *, int) and would be int (*)(struct thing *, long int)",
    ),
    "typedef-only": (
        "typedef struct { int counter; } count_t;", "typedef struct { short counter; } count_t;",
        "structure-layout", "count_t", "counter was int and would be short int",
    ),
    "variable": (
        "short two, three; }", "unsigned short two, three; }",
        "structure-layout", "table", "was struct {int one@0; short int two@32; ",
    ),
    "alignment": (
        "struct other { struct inner in; int last; };",
        "struct other { struct inner in; int last; } __attribute__((aligned(64)));",
        "structure-layout", "struct other", "its size changes from 24 to 64 bytes",
    ),
    "static-local": (
        "static long seen;", "static unsigned long seen;",
        "structure-layout", "seen of counted()", "was long int and would be long unsigned int",
    ),
    "static-local-of-a-block": (
        "static int sum = 7;", "static unsigned sum = 7;",
        "structure-layout", "sum of counted()", "was int and would be unsigned int",
    ),
    "static-local-of-an-inlined-function": (
        "{ static int sum; return", "{ static float sum; return",
        "structure-layout", "sum of tally()", "was int and would be float",
    ),
    "static-local-in-another-order": (
        "{ int low, high; } range = { 1, 2 }", "{ int high, low; } range = { 1, 2 }",
        "structure-layout", "range of counted()",
        "was struct {int low@0; int high@32} and would be struct {int high@0; int low@32}",
    ),
    "enum-inserted": (
        "PLAIN, SPECIAL", "PLAIN, NEW, SPECIAL",
        "enum-value-changed", "enum kind", "SPECIAL was 1 and would be 2",
    ),
    "argument-added": (
        "int other_tell(struct other *o)", "int other_tell(struct other *o, int x)",
        "prototype-changed", "other_tell",
        "was int (struct other *) and would be int (struct other *, int)",
    ),
    "returns-another": (
        "enum kind kind_of(", "int kind_of(",
        "prototype-changed", "kind_of",
        "was enum kind (struct thing *) and would be int (struct thing *)",
    ),
}  # fmt: skip

HARMLESS = {
    "nothing": ("", ""),
    "new-structure": (
        "int tell(",
        "struct fresh { int x; };\nint fresh(struct fresh *f) { return f->x; }\nint tell(",
    ),
    "forward-becomes-whole": ("struct later *next", "struct later { int z; } *next"),
    "const": ("int tell(struct thing *t", "int tell(const struct thing *t"),
    "typedef-of-the-same": (
        "    int first;",
        "    number first;",
    ),
    "static-prototype": (
        "static int inside(int x)",
        "static int inside(int x, int y)",
    ),
    "enum-appended": ("SPECIAL, NR_KINDS", "SPECIAL, NEW, NR_KINDS"),
    "member-renamed": ("    int first;", "    int foremost;"),
    "static-local-takes-another-name": (
        "static long seen;",
        "static long other; \n#define seen other\n",
    ),
    "local-variable": ("{ return outside(o->last) + 1; }", "{ int y = o->last; return y; }"),
}

COMMON = "typedef int number;\nstatic int inside(int x) { return outside(x); }\n"


def reasons(comparison: Comparison) -> list[Reason]:
    rules = ("structure-layout", "enum-value-changed", "prototype-changed")
    return [each for each in comparison.reasons if each.rule in rules]


def edited(old: str, new: str) -> str:
    text = COMMON + CODE
    if old:
        assert text.count(old) == 1
        text = text.replace(old, new)
        if "int foremost" in new:
            text = text.replace("t->first", "t->foremost")
        if "inside(int x, int y)" in new:
            text = text.replace("return outside(x); }", "return outside(x + y); }", 1)
    return text


@pytest.mark.parametrize("case", CHANGED)
def test_a_change_is_refused_and_named(case: str, tmp_path: Path) -> None:
    old, new, rule, subject, message = CHANGED[case]
    found = {
        each.object: each
        for each in reasons(compared(edited("", ""), edited(old, new), tmp_path, TYPES))
    }
    assert set(found) == {subject}
    assert found[subject].rule == rule
    assert message in found[subject].message


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("variable", "add a variable of another name"),
        ("static-local", "add a variable of another name"),
        ("alignment", "a shadow variable"),
    ],
)
def test_the_remedy_is_for_what_changed(case: str, remedy: str, tmp_path: Path) -> None:
    old, new, *_ = CHANGED[case]
    (found,) = reasons(compared(edited("", ""), edited(old, new), tmp_path, TYPES))
    assert remedy in found.remedy


@pytest.mark.parametrize("case", CHANGED)
def test_without_debug_information_nothing_is_told(case: str, tmp_path: Path) -> None:
    """The control: it is the debug information that tells, and no other rule."""
    old, new, *_ = CHANGED[case]
    assert not reasons(compared(edited("", ""), edited(old, new), tmp_path))


@pytest.mark.parametrize("case", HARMLESS)
def test_what_moves_nothing_is_no_reason(case: str, tmp_path: Path) -> None:
    assert not reasons(compared(edited("", ""), edited(*HARMLESS[case]), tmp_path, TYPES))


def test_a_renamed_member_and_a_longer_enumeration_are_remarked(tmp_path: Path) -> None:
    def remarks(case: str) -> list[str]:
        after = edited(*HARMLESS[case])
        found = compared(edited("", ""), after, tmp_path, TYPES).warnings
        return [each for each in found if each.startswith(("struct", "enum"))]

    assert remarks("member-renamed") == ["struct thing: first is called foremost by the fix"]
    (text,) = remarks("enum-appended")
    assert text.startswith("enum kind: NR_KINDS was 2 and would be 3")


def test_remarks_have_one_order(tmp_path: Path) -> None:
    """They come into the module's manifest, which the same fix makes the same, byte by byte."""
    names = [f"s{number}" for number in range(9)]
    text = "struct NAME { int x; }; int fNAME(struct NAME *p) { return p->x; }\n"
    before = "".join(text.replace("NAME", name) for name in names)
    after = before.replace("int x;", "int y;").replace("p->x", "p->y")
    found = compared(before, after, tmp_path, TYPES).warnings
    assert list(found) == [f"struct {name}: x is called y by the fix" for name in names]


def test_who_uses_a_structure_is_named_and_what_holds_it(tmp_path: Path) -> None:
    after = edited("struct inner { int a;", "struct inner { int a, c, d;")
    (reason,) = reasons(compared(edited("", ""), after, tmp_path, TYPES))
    assert reason.object == "struct inner"
    assert "with it changes struct other, struct thing;" in reason.message
    assert "used by kind_of(), other_tell(), pairs() and 1 more" in reason.message


def test_what_several_units_see_is_told_once(tmp_path: Path) -> None:
    before, after = edited("", ""), edited("    int first;", "    int first, more;")
    original, patched = (
        compiled(text, tmp_path, f"{number}.o", TYPES)
        for number, text in enumerate((before, after))
    )
    judged = judge_all({unit: compare_objects(original, patched) for unit in ("fs/a.c", "fs/b.c")})
    (reason,) = [each for unit in judged.values() for each in reasons(unit)]
    assert reason.message.endswith("seen in fs/a.c, fs/b.c")


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_both_versions_of_debug_information_say_the_same(version: str, tmp_path: Path) -> None:
    obj = compiled(edited("", ""), tmp_path, "x.o", (*SECTIONS, version, "-gz=none"))
    types = Types(read_debug_information(obj))
    members = types.structures["struct thing"].members
    assert (members["high"].offset, members["high"].size) == (35, 5)
    assert types.structures["struct thing"].size == 80
    assert types.place("table", 14) == Member("[1].three", 112, 16, "short int")


def test_compressed_debug_information_is_read(tmp_path: Path) -> None:
    obj = compiled(edited("", ""), tmp_path, "x.o", (*SECTIONS, "-g", "-gz=zlib"))
    assert "struct thing" in Types(read_debug_information(obj)).structures


def test_malformed_debug_information_is_a_typed_error(tmp_path: Path) -> None:
    """Bytes of it are overwritten at random: it is read, or refused, and that soon."""
    good = (tmp_path / "x.o", compiled(edited("", ""), tmp_path, "x.o", TYPES))[0].read_bytes()
    random = Random(1)
    refused = 0
    for _ in range(400):
        obj = parse(good)
        name = random.choice((".debug_info", ".debug_info", ".debug_abbrev", ".debug_str"))
        section = obj.sections[obj.section_number(name) or 0]
        data = bytearray(section.data)
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.choice(
                (0, 1, 0x7F, 0xFF, random.randrange(256))
            )
        section.data = bytes(data)
        unit = Unit(obj, "x.o")
        try:
            types = types_of(unit)
            assert types is not None
            types.users(frozenset(types.structures))
            types.place("table", 14)
        except ElfError:
            refused += 1
    assert refused > 20


ACCEPT = (
    'static const char mark_%s[] __attribute__((used, aligned(1), section(".livegraft.marks"))) ='
    ' "accept-layout=struct %s";\n'
)
LONGER = CODE.replace("struct inner { int a; long b; };", "struct inner { int a; long b, c; };")


def test_a_layout_is_accepted_for_the_named_structure_only(tmp_path: Path) -> None:
    """``struct other`` holds ``struct inner``: its objects in memory get another layout, too."""
    found = compared(CODE, ACCEPT % ("inner", "inner") + LONGER, tmp_path, TYPES)
    reasons, _ = type_reasons({"fs/unit.c": found})
    assert {(each.rule, each.object) for each in reasons} == {
        ("structure-layout", "struct other"),
        ("structure-layout", "struct thing"),
    }


@pytest.mark.parametrize("name", ["kind", "missing"])
def test_a_layout_that_does_not_change_is_not_accepted(name: str, tmp_path: Path) -> None:
    """A mark that does nothing is a mistake: the name may be of another structure."""
    accepted = "".join(ACCEPT % (each, each) for each in ("inner", "other", "thing"))
    found = compared(CODE, accepted + LONGER, tmp_path, TYPES)
    assert not type_reasons({"fs/unit.c": found})[0]
    found = compared(CODE, accepted + ACCEPT % (name, name) + LONGER, tmp_path, TYPES)
    (reason,) = type_reasons({"fs/unit.c": found})[0]
    assert (reason.rule, reason.object) == ("mark-target", f"struct {name}")


def test_without_debug_information_no_mark_is_found_in_vain(tmp_path: Path) -> None:
    assert not rules(compared(CODE, ACCEPT % ("missing", "missing") + LONGER, tmp_path))
