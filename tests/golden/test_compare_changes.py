# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a change and what is none, on pairs of objects named after the case."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compare_pairs import SECTIONS, compared, compiled, payload, run

from livegraft.compare.comparison import compare_objects
from livegraft.verdict.judge import judge

Case = tuple[str, str]

LINES = "\n\n\n"

# Of the alternatives of one place the last that fits stays (arch/x86/kernel/alternative.c).
ALTERNATIVES = r"""
int f(int x) {
    asm volatile("site_a: nop; nop; nop; nop; nop");
    outside(x);
    asm volatile("site_b: nop; nop; nop; nop; nop\n.pushsection .altinstr_replacement,\"ax\"\n"
        "3: mov $1, %%eax\n4: mov $2, %%eax\n5:\n.popsection\n.pushsection .altinstructions,\"a\"\n"
        ENTRIES ".popsection" : : : "rax");
    return x;
}
"""
_ENTRY = r'".long site_{} - .\n.long {}b - .\n.word {}\n.byte 5\n.byte 5\n"'


def alternatives(*entries: tuple[str, int, int]) -> str:
    """A function with alternatives: place, replacement, feature of the processor."""
    return ALTERNATIVES.replace("ENTRIES", " ".join(_ENTRY.format(*each) for each in entries))


UNCHANGED: dict[str, Case] = {
    "bug-entry-line-only": (
        "int f(int x) { WARN_ON(x > 7); return x; }",
        LINES + "int f(int x) { WARN_ON(x > 7); return x; }",
    ),
    "string-only-line-change": (
        'int f(int x) { return printk(__FILE__ ":" STR(__LINE__)) + x; }',
        LINES + 'int f(int x) { return printk(__FILE__ ":" STR(__LINE__)) + x; }',
    ),
    "line-argument": (
        "void __might_sleep(const char *f, int l);\n"
        "int f(int x) { __might_sleep(__FILE__, __LINE__); return x; }",
        LINES + "void __might_sleep(const char *f, int l);\n"
        "int f(int x) { __might_sleep(__FILE__, __LINE__); return x; }",
    ),
    "line-in-a-format": (
        'int f(int x) { return printk("%s:%d: %d\\n", __FILE__, __LINE__, 9) + x; }',
        LINES + 'int f(int x) { return printk("%s:%d: %d\\n", __FILE__, __LINE__, 9) + x; }',
    ),
    "line-behind-the-function's-name": (
        'int f(int x) { return printk("%s %d, of %d\\n", __func__, __LINE__, 9) + x; }',
        LINES + 'int f(int x) { return printk("%s %d, of %d\\n", __func__, __LINE__, 9) + x; }',
    ),
    "line-behind-a-file's-name": (
        'int f(int x) { return printk("at %s: %d: %d\\n", __FILE__, __LINE__, x) + x; }',
        LINES + 'int f(int x) { return printk("at %s: %d: %d\\n", __FILE__, __LINE__, x) + x; }',
    ),
    "line-in-a-format-behind-a-width": (
        'int f(int x) { return printk("%.*s %9.9s:%-4d : %d\\n", 8, "a", "b.c", __LINE__, x); }',
        LINES
        + 'int f(int x) { return printk("%.*s %9.9s:%-4d : %d\\n", 8, "a", "b.c", __LINE__, x); }',
    ),
    "line-in-a-format-on-the-stack": (
        'int f(int x) { return printk("%d%d%d%d%d%d line %d\\n", x, x, x, x, x, 9, __LINE__); }',
        LINES
        + 'int f(int x) { return printk("%d%d%d%d%d%d line %d\\n", x, x, x, x, x, 9, __LINE__);'
        " }",
    ),
    "line-argument-on-the-stack": (
        "int jbd2__journal_start(void *j, int a, int b, int c, int d, int e, int l, int n);\n"
        "int f(int x) { return jbd2__journal_start(0, x, x, x, x, x, __LINE__, 2 * x); }",
        LINES
        + "int jbd2__journal_start(void *j, int a, int b, int c, int d, int e, int l, int n);\n"
        "int f(int x) { return jbd2__journal_start(0, x, x, x, x, x, __LINE__, 2 * x); }",
    ),
    "line-of-acpica": (
        "int acpi_error(const char *m, int l, const char *t, ...);\n"
        'int f(int x) { return acpi_error("m", __LINE__, "%d", x); }',
        LINES + "int acpi_error(const char *m, int l, const char *t, ...);\n"
        'int f(int x) { return acpi_error("m", __LINE__, "%d", x); }',
    ),
    "string-moved-behind-another": (
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("two"); }',
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("two"); }\n'
        'static char unused[] = "three";',
    ),
    "func-name-renumbered": (
        "int f(int x) { return printk(__func__) + x; }\n",
        "static int dead(int x) { return printk(__func__); }\n"
        "int f(int x) { return printk(__func__) + x; }\n",
    ),
    "alternatives-of-two-places-in-another-order": (
        alternatives(("a", 3, 7), ("b", 4, 9)),
        alternatives(("b", 4, 9), ("a", 3, 7)),
    ),
    "functions-in-another-order": (
        "static noinline int g(int x) { return outside(x) * 3; }\n"
        "int f(int x) { return g(x) + 1; }",
        "static int g(int x);\nint f(int x) { return g(x) + 1; }\n"
        "static noinline int g(int x) { return outside(x) * 3; }",
    ),
    "static-locals-renumbered": (
        "int f(void) { static int count; return ++count; }\n"
        "int g(void) { static int count; return count += 2; }",
        "int g(void) { static int count; return count += 2; }\n"
        "int f(void) { static int count; return ++count; }",
    ),
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_no_change(case: str, tmp_path: Path) -> None:
    comparison = compared(*UNCHANGED[case], tmp_path)
    assert comparison.as_json() == {
        "verdict": "unchanged",
        "changed": [],
        "new": [],
        "removed": [],
        "warnings": [],
        "reasons": [],
    }


CHANGED: dict[str, tuple[str, str, list[str], list[str], list[str]]] = {
    "an-immediate-that-is-no-line": (
        "int f(int x) { return outside(100); }",
        "int f(int x) { return outside(103); }",
        ["f"], [], [],
    ),
    "an-argument-before-the-line": (
        "void __might_sleep(const char *f, int l);\nint f(int x) { __might_sleep((void *)9, 3); }",
        "void __might_sleep(const char *f, int l);\nint f(int x) { __might_sleep((void *)8, 3); }",
        ["f"], [], [],
    ),
    "a-number-in-a-format-that-is-no-line": (
        'int f(int x) { return printk("%s:%d: %d\\n", __FILE__, 5, 9) + x; }',
        'int f(int x) { return printk("%s:%d: %d\\n", __FILE__, 5, 8) + x; }',
        ["f"], [], [],
    ),
    "a-number-behind-another-name": (
        'int f(int x) { return printk("%s %d, %s: %d\\n", "size", 5, "of", 7) + x; }',
        'int f(int x) { return printk("%s %d, %s: %d\\n", "size", 6, "of", 8) + x; }',
        ["f"], [], [],
    ),
    "a-number-behind-the-function's-name-and-another": (
        'int f(int x) { return printk("%s %s: %d\\n", __func__, "size", 7) + x; }',
        'int f(int x) { return printk("%s %s: %d\\n", __func__, "size", 8) + x; }',
        ["f"], [], [],
    ),
    "a-variable-on-the-stack-in-front-of-a-line-there": (
        'int f(int x) { int y = 5; return printk("%d%d%d%d%d line %d %p", x, x, x, x, x, 7, &y); }',
        'int f(int x) { int y = 6; return printk("%d%d%d%d%d line %d %p", x, x, x, x, x, 7, &y); }',
        ["f"], [], [],
    ),
    "a-number-on-the-stack-beside-a-line": (
        'int f(int x) { return printk("%d %d %d %d %d %d line %d", x, x, x, x, x, 8, 7) + 1; }',
        'int f(int x) { return printk("%d %d %d %d %d %d line %d", x, x, x, x, x, 9, 7) + 1; }',
        ["f"], [], [],
    ),
    "an-argument-on-the-stack-beside-a-line": (
        "int jbd2__journal_start(void *j, int a, int b, int c, int d, int e, int l, int n);\n"
        "int f(int x) { return jbd2__journal_start(0, x, x, x, x, x, 7, 8); }",
        "int jbd2__journal_start(void *j, int a, int b, int c, int d, int e, int l, int n);\n"
        "int f(int x) { return jbd2__journal_start(0, x, x, x, x, x, 7, 9); }",
        ["f"], [], [],
    ),
    "a-width-in-a-format-that-is-no-line": (
        'int f(int x) { return printk("%s:%*d: %d\\n", __FILE__, 5, x, 9); }',
        'int f(int x) { return printk("%s:%*d: %d\\n", __FILE__, 6, x, 9); }',
        ["f"], [], [],
    ),
    "bug-entry-flags": (
        "int f(int x) { WARN_ON(x > 7); return x; }",
        'int f(int x) { if (unlikely(x > 7)) asm volatile("1: .byte 0x0f, 0x0b\\n.pushsection'
        ' __bug_table,\\"aw\\"\\n2: .long 1b - .\\n.long %c0 - .\\n.word %c1\\n.word %c2\\n'
        '.org 2b+12\\n.popsection" : : "i"(__FILE__), "i"(__LINE__), "i"(3)); return x; }',
        ["f"], [], [],
    ),
    "string-changed": (
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("two"); }',
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("six"); }',
        ["g"], [], [],
    ),
    "cold-part-changed": (
        'int f(int x) { if (x > 7) printk("a"); return x * 3; }',
        'int f(int x) { if (x > 7) printk("b"); return x * 3; }',
        ["f"], [], [],
    ),
    "new-global-function": (
        "int f(int x) { return x; }",
        "noinline int g(int x) { return outside(x); }\nint f(int x) { return g(x); }",
        ["f"], ["g"], [],
    ),
    "removed-function": (
        "static noinline int g(int x) { return outside(x); }\nint f(int x) { return g(x); }",
        "int f(int x) { return outside(x); }",
        ["f"], [], ["g"],
    ),
    "call-goes-elsewhere": (
        "int g(int x) { return x; }\nint h(int x) { return x; }\n"
        "int f(int x) { return outside(x); }",
        "int g(int x) { return x; }\nint h(int x) { return x; }\nextern int inside(int);\n"
        "int f(int x) { return inside(x); }",
        ["f"], [], [],
    ),
    "static-locals-exchanged": (
        "static int a, b;\nint f(void) { return ++a; }\nint g(void) { return b += 2; }\n"
        "int h(void) { return a + 3 * b; }",
        "static int a, b;\nint f(void) { return ++b; }\nint g(void) { return a += 2; }\n"
        "int h(void) { return a + 3 * b; }",
        ["f", "g"], [], [],
    ),
    "jump-label-target-changed": (
        "extern struct static_key key;\n"
        "int f(int x) { if (static_branch(&key)) return outside(x); return x; }",
        "extern struct static_key other;\n"
        "int f(int x) { if (static_branch(&other)) return outside(x); return x; }",
        ["f"], [], [],
    ),
    "alternatives-of-one-place-in-another-order": (
        alternatives(("a", 3, 7), ("a", 4, 9)),
        alternatives(("a", 4, 9), ("a", 3, 7)),
        ["f"], [], [],
    ),
    "constant-changed": (
        "int f(int x) { static const char table[] = {1, 2, 3, 4}; return table[x & 3]; }\n"
        "int g(int x) { switch (x) { case 0: return 3; case 1: return 17; case 2: return 9;"
        " case 3: return 1; case 4: return 8; } return 0; }",
        "int f(int x) { static const char table[] = {1, 2, 3, 4}; return table[x & 3]; }\n"
        "int g(int x) { switch (x) { case 0: return 3; case 1: return 18; case 2: return 9;"
        " case 3: return 1; case 4: return 8; } return 0; }",
        ["g"], [], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
def test_change(case: str, tmp_path: Path) -> None:
    before, after, changed, new, removed = CHANGED[case]
    document = compared(before, after, tmp_path).as_json()
    assert document["reasons"] == []
    assert document["verdict"] == "changed"
    assert (document["changed"], document["new"], document["removed"]) == (changed, new, removed)


@pytest.mark.parametrize("case", [*UNCHANGED, *CHANGED])
def test_every_object_equals_itself(case: str, tmp_path: Path) -> None:
    for source in (UNCHANGED[case] if case in UNCHANGED else CHANGED[case])[:2]:
        assert compared(source, source, tmp_path).verdict == "unchanged"


@pytest.mark.parametrize("section", [".text.hot.f", ".text.unlikely.f"])
def test_a_symbol_between_sections_of_hot_and_cold_code_is_no_change(
    section: str, tmp_path: Path
) -> None:
    plain = "int f(int x) { return outside(x); }"
    comparison = compared(plain, f'__attribute__((section("{section}"))) {plain}', tmp_path)
    assert comparison.patched.obj.section_number(section) is not None
    assert comparison.verdict == "unchanged"


CONSTANTS = """
typedef float four __attribute__((vector_size(16)));
{first}
void g(four *x) {{ *x *= (four) {{1, 2, 3, {last}}}; outside(7); }}
void h(four *x) {{ *x += (four) {{5, 6, 7, 8}}; outside(8); }}
"""
FIRST = "void e(four *x) { *x *= (four) {9, 9, 9, 9}; }"


@pytest.mark.parametrize(("last", "changed"), [(4, ()), (5, ("g",))])
def test_constants_are_told_by_their_contents(
    last: int, changed: tuple[str, ...], tmp_path: Path
) -> None:
    """One more in front moves all of them in ``.rodata.cst16``."""
    flags = (*SECTIONS, "-msse2")
    before, after = CONSTANTS.format(first="", last=4), CONSTANTS.format(first=FIRST, last=last)
    comparison = compared(before, after, tmp_path, flags)
    assert comparison.patched.obj.section_number(".rodata.cst16") is not None
    assert (comparison.changed, comparison.new) == (changed, ("e",))


ISRA = """
struct s { int a, b; };
static noinline int pick(struct s *s, int x) { return outside(s->a) + x * 3; }
int f(struct s *s, int x) { return pick(s, x); }
int g(struct s *s, int x) { return pick(s, x + 1); }
"""


@pytest.mark.parametrize(("factor", "changed"), [("3", ()), ("5", ("pick.isra.0",))])
def test_isra_renumbered(factor: str, changed: tuple[str, ...], tmp_path: Path) -> None:
    """Names of clones are those of the original object, whatever the patched one calls them."""
    original = compiled(ISRA, tmp_path, "original.o")
    patched = compiled(ISRA.replace("3", factor), tmp_path, "patched.o")
    (clone,) = (symbol for symbol in patched.symbols if symbol.name == "pick.isra.0")
    clone.name = "pick.isra.4"
    comparison = judge(compare_objects(original, patched))
    assert (comparison.changed, comparison.new, comparison.removed) == (changed, (), ())


@pytest.mark.parametrize("text", ["a", "b"])
def test_a_cold_part_of_a_part_changes_the_part(text: str, tmp_path: Path) -> None:
    """``foo.part.0.cold`` belongs to ``foo.part.0``, which has an ftrace entry of its own."""
    source = 'int f(int x) { if (x > 7) printk("%s"); return x * 3; }'
    objects = [
        compiled(source % each, tmp_path, f"{number}.o") for number, each in enumerate(("a", text))
    ]
    for obj in objects:
        for symbol in obj.symbols:
            if symbol.name in ("f", "f.cold"):
                symbol.name = symbol.name.replace("f", "f.part.0", 1)
    comparison = judge(compare_objects(*objects))
    assert comparison.changed == (() if text == "a" else ("f.part.0",))
    assert comparison.reasons == ()


def test_another_kind_of_clone_is_another_function(tmp_path: Path) -> None:
    original = compiled(ISRA, tmp_path, "original.o")
    patched = compiled(ISRA, tmp_path, "patched.o")
    (clone,) = (symbol for symbol in patched.symbols if symbol.name == "pick.isra.0")
    clone.name = "pick.constprop.0"
    comparison = judge(compare_objects(original, patched))
    assert comparison.changed == ("f", "g")
    assert (comparison.new, comparison.removed) == (("pick.constprop.0",), ("pick.isra.0",))


INFO = 'static const char info_%d[] __attribute__((section(".modinfo"), used)) = "alias=%s";\n'


def test_what_modinfo_tells_is_told(tmp_path: Path) -> None:
    """An alias more: the module's file on the disk stays as it is."""
    plain = INFO % (1, "one") + "int f(int x) { return outside(x); }"
    comparison = compared(plain, INFO % (2, "two") + plain, tmp_path)
    (warning,) = comparison.warnings
    assert warning.startswith(".modinfo: ")
    assert warning.endswith("(alias=two)")
    assert compared(plain, plain.replace("info_1", "info_7"), tmp_path).warnings == ()


PRINTK = """
int f(int x) {
    static const char *const entry __attribute__((section(".printk_index"), used)) = "text";
    return outside(x) + %d;
}
"""


def test_the_index_of_messages_stays(tmp_path: Path) -> None:
    """``printk()`` with CONFIG_PRINTK_INDEX."""
    (warning,) = compared(PRINTK % 1, PRINTK % 2, tmp_path).warnings
    assert warning == ".printk_index: messages of new code are not in the index of messages"
    assert compared(PRINTK % 1, LINES + PRINTK % 1, tmp_path).warnings == ()


@pytest.mark.parametrize(
    "entry",
    [
        # include/linux/export.h of 6.1 and of 6.12
        '___ksymtab_gpl+f, \\"a\\"\\n__ksymtab_f: .long f - .\\n',
        '.export_symbol, \\"a\\"\\n__export_symbol_f: .asciz \\"GPL\\"\\n.quad f\\n',
    ],
)
def test_an_export_is_told(entry: str, tmp_path: Path) -> None:
    f = "int f(int x) { return outside(x) + %d; }\n"
    export = f'asm(".pushsection {entry}.popsection");\n'
    comparison = compared(f % 1, f % 2 + export, tmp_path)
    assert (comparison.verdict, comparison.changed) == ("changed", ("f",))
    assert comparison.warnings == ("f: is exported by the fix, but not by a live patch",)
    assert compared(f % 1 + export, f % 2 + export, tmp_path).warnings == ()


DEBUG = """
struct _ddebug { long text[7]; };
static int debug(int x) {
    static struct _ddebug descriptor __attribute__((section("__dyndbg"), aligned(8))) = {{1}};
    return descriptor.text[0] + outside(x);
}
int f(int x) { return debug(x) + %d; }
int g(int x) { return outside(x) + %d; }
"""


@pytest.mark.parametrize(("f", "g", "told"), [(2, 1, ["f"]), (1, 2, [])])
def test_dynamic_debug_that_starts_off_is_told(
    f: int, g: int, told: list[str], tmp_path: Path
) -> None:
    comparison = compared(DEBUG % (1, 1), DEBUG % (f, g), tmp_path)
    assert comparison.changed == ("f",) if told else ("g",)
    assert [warning.partition(": pr_debug()")[0] for warning in comparison.warnings] == told


UNTRACED = """
static notrace noinline int g(int x) { return outside(x) + %d; }
static notrace noinline int h(int x) { return g(x) * 3; }
int f(int x) { return h(x) + 1; }
int e(int x) { return g(x) + 2; }
int d(int x) { return outside(x); }
"""


@pytest.mark.parametrize("padding", [(), ("-fpatchable-function-entry=16,16",)])
def test_callers_bring_along_what_cannot_be_redirected(
    padding: tuple[str, ...], tmp_path: Path
) -> None:
    """Kernel ``inline`` implies ``notrace``: ``gfs2_setbit()`` has no ftrace entry.

    What is padded in front (CONFIG_CALL_PADDING) is not therefore traced.
    """
    comparison = compared(UNTRACED % 1, UNTRACED % 2, tmp_path, (*SECTIONS, *padding))
    assert (comparison.changed, comparison.new) == (("e", "f"), ("g", "h"))
    assert comparison.reasons == ()
    main = "int lg_fs_unit_f(int x);\nint f(int x);\nint lg_fs_unit_e(int x);\n" + (
        'int main(void) { printf("%d %d %d", f(1), lg_fs_unit_f(1), lg_fs_unit_e(1)); }'
    )
    assert run(comparison.original.obj, payload(comparison), main, tmp_path) == "3007 3010 1005"


@pytest.mark.parametrize(
    "kept", ["int (*kept)(int) = g;", "int (*keep(void))(int) { return g; }", "#define static"]
)
def test_what_others_may_call_is_not_brought_along(kept: str, tmp_path: Path) -> None:
    tail = "" if kept.startswith("#") else kept
    head = kept + "\n" if not tail else ""
    comparison = compared(head + UNTRACED % 1 + tail, head + UNTRACED % 2 + tail, tmp_path)
    assert [reason.rule for reason in comparison.reasons] == ["no-ftrace-entry"]
    assert [reason.object for reason in comparison.reasons] == ["g"]


KEPT_BEFORE = UNTRACED + "extern void keep(int (*)(int));\nvoid setup(int y) { %s; }\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Whoever was given the old one's address calls it for ever.
        (KEPT_BEFORE % (1, "keep(g)"), KEPT_BEFORE % (2, "g(y)")),
        # A global one may have been called from anywhere.
        ((UNTRACED % 1).replace("static notrace noinline int g", "notrace noinline int g"),
         UNTRACED % 2),
        # A task inside of it is not seen in a caller that has left its frame.
        (UNTRACED % 1 + "int c(int x) { return x > 3 ? g(x) : 0; }",
         UNTRACED % 2 + "int c(int x) { return x > 3 ? g(x) : 0; }"),
    ],
    ids=["address-kept", "was-global", "tail-call"],
)  # fmt: skip
def test_an_old_one_that_may_stay_in_use_is_refused(
    before: str, after: str, tmp_path: Path
) -> None:
    comparison = compared(before, after, tmp_path)
    assert ("no-ftrace-entry", "g") in [(each.rule, each.object) for each in comparison.reasons]


STORES = """
extern void __ext4_mark_inode_dirty(int, int, int, int);
void f(int *x)
{
    asm volatile("mov $%d, %%%%ecx\\nrep stosl" : : "D"(x), "a"(0) : "ecx", "memory");
    asm volatile("mov $466, %%%%ecx\\ncall __ext4_mark_inode_dirty" : : : "ecx", "memory");
}
"""


def test_a_number_that_does_not_reach_the_call_is_no_line(tmp_path: Path) -> None:
    """``memset(x, 0, 32)`` that becomes 64 in front of a call that takes a line."""
    assert compared(STORES % 8, STORES % 16, tmp_path).changed == ("f",)
    line = STORES.replace("$466", "$467")
    assert compared(STORES % 8, line % 8, tmp_path).changed == ()
