# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, by which rule, and that the rule is the only one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.compare_pairs import SECTIONS, Running, compared, compiled, payload, rules

from livegraft.compare.comparison import compare_objects
from livegraft.elf.header import SectionFlag, SectionType
from livegraft.elf.object import Section, Symbol, SymbolType
from livegraft.errors import Refused
from livegraft.verdict.judge import judge

PLACE = """
int f(int x) {
    asm volatile("1: nop\\n.pushsection something, \\"a\\"\\n.long 1b - .\\n.popsection");
    return outside(x) + %d;
}
"""

HOT = """
#define hot __attribute__((section(".data..read_mostly")))
static int a[4] hot = {1}, b[4] hot = {2};
int *where(int x) { return x ? a : b; }
%s
"""

# arch/x86/include/asm/runtime-const.h
RUNTIME_CONST = r"""
unsigned long limit(unsigned long x) {
    unsigned long value;
    asm("mov $0x123456789abcdef, %%0\n1: .pushsection runtime_%s_limit, \"a\"\n.long 1b - 8 - .\n"
        ".popsection" : "=r"(value));
    return value + x * %d;
}
"""

REFUSED: dict[str, tuple[str, str, str, str]] = {
    "init-only": (
        "__init int f(int x) { return outside(x); }",
        "__init int f(int x) { return outside(x) + 1; }",
        "init-code", "f",
    ),
    "module-init": (
        '__init int my_init(void) { return outside(1); }\n'
        'int init_module(void) __attribute__((alias("my_init")));',
        '__init int my_init(void) { return outside(2); }\n'
        'int init_module(void) __attribute__((alias("my_init")));',
        "init-code", "my_init",
    ),
    "init-data": (
        'int table[] __attribute__((section(".init.data"))) = {1, 2};',
        'int table[] __attribute__((section(".init.data"))) = {1, 3};',
        "init-code", "table",
    ),
    "exit-code": (
        'int __attribute__((section(".exit.text"))) f(int x) { return outside(x); }',
        'int __attribute__((section(".exit.text"))) f(int x) { return outside(x) + 1; }',
        "init-code", "f",
    ),
    "no-fentry": (
        "notrace int f(int x) { return outside(x); }",
        "notrace int f(int x) { return outside(x) + 1; }",
        "no-ftrace-entry", "f",
    ),
    "data-changed": ("int limit = 7;", "int limit = 8;", "data-changed", "limit"),
    "data-pointer-changed": (
        "int f(int x) { return x; }\nint g(int x) { return x + 1; }\nint (*op)(int) = f;",
        "int f(int x) { return x; }\nint g(int x) { return x + 1; }\nint (*op)(int) = g;",
        "data-changed", "op",
    ),
    "data-string-changed": (
        'char *name = "one";', 'char *name = "two";', "data-changed", "name",
    ),
    "data-read-mostly-changed": (
        'int limit __attribute__((section(".data..read_mostly"))) = 7;',
        'int limit __attribute__((section(".data..read_mostly"))) = 8;',
        "data-changed", "limit",
    ),
    "data-from-bss": ("int limit;", "int limit = 8;", "data-changed", "limit"),
    "alignment": (
        "long limit;\nlong *f(int x) { return &limit; }",
        "long limit __attribute__((aligned(64)));\nlong *f(int x) { return &limit; }",
        "storage-changed", "limit",
    ),
    "device-table": (
        "static long ids[2] = {1};\n"
        'extern long __mod_hid__ids_device_table[2] __attribute__((unused, alias("ids")));',
        "static long ids[3] = {1, 2};\n"
        'extern long __mod_hid__ids_device_table[3] __attribute__((unused, alias("ids")));',
        "data-size-changed", "ids",
    ),
    "data-size-changed": ("int table[4];", "int table[5];", "data-size-changed", "table"),
    "alias-changed": (
        "int f(int x) { return outside(x); }\nint g(int x) __attribute__((alias(\"f\")));",
        "int f(int x) { return outside(x) + 1; }\nint h(int x) __attribute__((alias(\"f\")));",
        "alias-changed", "f",
    ),
    "alias-moved-between-functions-that-did-not-change": (
        "int f(int x) { return outside(x); }\nint g(int x) { return outside(x) + 1; }\n"
        "int h(int x) __attribute__((alias(\"f\")));",
        "int f(int x) { return outside(x); }\nint g(int x) { return outside(x) + 1; }\n"
        "int h(int x) __attribute__((alias(\"g\")));",
        "alias-changed", "h",
    ),
    "registration": (
        "int f(int x) { return x; }",
        "int f(int x) { return x; }\n"
        "int (*entry)(int) __attribute__((section(\"__param\"), used)) = f;",
        "registration", "entry",
    ),
    "registration-of-a-tracepoint": (
        "int f(int x) { return x; }",
        'int mine __attribute__((section("__tracepoints"))) = 7;\n'
        "int f(int x) { return x + mine; }",
        "registration", "mine",
    ),
    "unknown-section-read-by-code": (
        "int f(int x) { return x; }",
        'int mine __attribute__((section("something"))) = 7;\nint f(int x) { return x + mine; }',
        "unknown-section", "mine",
    ),
    "unknown-section-with-places-in-code": (
        PLACE % 1, PLACE % 2, "unknown-section", "f",
    ),
    "unknown-section-changed": (
        'asm(".pushsection something, \\"a\\"\\n.long 1\\n.popsection");',
        'asm(".pushsection something, \\"a\\"\\n.long 2\\n.popsection");',
        "unknown-section", "something",
    ),
    "init-reference": (
        "__init noinline int g(int x) { return outside(x); }\n"
        '__attribute__((section(".ref.text"))) int f(int x) { return g(x); }',
        "__init noinline int g(int x) { return outside(x); }\n"
        '__attribute__((section(".ref.text"))) int f(int x) { return g(x) + 1; }',
        "init-reference", "g",
    ),
    "section-layout": (
        HOT % "" + "int f(int x) { return b[x - 1] + 1; }",
        HOT % "static int extra[3] hot = {7}; int *e(void) { return extra; }"
        + "int f(int x) { return b[x - 1] + 2; }",
        "section-layout", "b",
    ),
    "section-layout-of-two-new-ones": (
        "int f(void) { return outside(1); }",
        '#define hot __attribute__((section(".data..read_mostly")))\n'
        "static int a[4] hot = {1}, b[4] hot = {2};\n"
        "int f(void) { int n = 0; for (int *p = b; p != b + 4; p++) n += outside(*p);"
        " return n + a[n]; }",
        "section-layout", "a",
    ),
    "static-local-ambiguous": (
        "int f(int x) { if (x) { static int n = 1; return ++n; } { static int n = 1;"
        " return outside(n++); } }",
        "int f(int x) { if (x) { static int n = 1; return ++n; } { static int n = 1;"
        " outside(n++); } { static int n = 1; return outside(n += 5); } }",
        "static-local-ambiguous", "n",
    ),
    "static-locals-of-exchanged-blocks-that-changed": (
        "int f(int x) { { static int n = 1; outside(n++ * x); }"
        " { static int n = 1; return outside(n += 5); } }",
        "int f(int x) { { static int n = 1; outside(n += 6); }"
        " { static int n = 1; return outside(n++ * x); } }",
        "static-local-ambiguous", "n",
    ),
    "runtime-const": (
        RUNTIME_CONST % ("ptr", 1), RUNTIME_CONST % ("ptr", 2), "runtime-const", "limit",
    ),
    "runtime-const-shift": (
        RUNTIME_CONST % ("shift", 1), RUNTIME_CONST % ("shift", 2), "runtime-const", "limit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    before, after, rule, name = REFUSED[case]
    comparison = compared(before, after, tmp_path)
    assert comparison.verdict == "refused"
    assert rules(comparison) == {rule}
    assert {reason.object.split(".")[0] for reason in comparison.reasons} == {name}
    assert all(reason.message and reason.remedy for reason in comparison.reasons)
    with pytest.raises(Refused):
        payload(comparison)


@pytest.mark.parametrize("case", REFUSED)
def test_the_same_source_twice_is_not_refused(case: str, tmp_path: Path) -> None:
    for source in REFUSED[case][:2]:
        assert compared(source, source, tmp_path).verdict == "unchanged"


@pytest.mark.parametrize(
    ("section", "kind"),
    [(".data..read_mostly", "read-mostly"), (".data..ro_after_init", "ro-after-init")],
)
def test_what_protects_changed_data_is_told(section: str, kind: str, tmp_path: Path) -> None:
    limit = f'int limit __attribute__((section("{section}"))) = %d;'
    (reason,) = compared(limit % 7, limit % 8, tmp_path).reasons
    assert (reason.rule, reason.object) == ("data-changed", "limit")
    assert f"the initial value of {kind} data changed ({section})" in reason.message


def test_data_of_a_sanitizer_is_refused(tmp_path: Path) -> None:
    """CONFIG_UBSAN, which Debian's kernels do not have: each place has a line in it."""
    flags = (*SECTIONS, "-fsanitize=bounds")
    f = "int a[8];\nint f(int x) { return a[x] + %d; }"
    assert compared(f % 1, f % 1, tmp_path, flags).verdict == "unchanged"
    found = compared(f % 1, "\n\n" + f % 2, tmp_path, flags)
    assert (found.verdict, rules(found)) == ("refused", {"unknown-section"})
    assert {each.object for each in found.reasons} == {".data..Lubsan_data0"}


def test_all_reasons_are_given(tmp_path: Path) -> None:
    before = "int limit = 7;\nint table[4];\nnotrace int f(int x) { return outside(x); }"
    after = "int limit = 8;\nint table[5];\nnotrace int f(int x) { return outside(x) + 1; }"
    found = rules(compared(before, after, tmp_path))
    assert found == {"data-changed", "data-size-changed", "no-ftrace-entry"}


SIMPLE = "int f(int x) { return outside(x); }"


def test_unknown_relocation(tmp_path: Path) -> None:
    original, patched = (compiled(SIMPLE, tmp_path, "unit.o") for _ in range(2))
    number = patched.section_number(".text.f")
    assert number is not None
    patched.sections[number].relocations["type"] = 23
    assert "unknown-relocation" in rules(judge(compare_objects(original, patched)))


def test_undecodable_code_is_refused_where_it_matters(tmp_path: Path) -> None:
    """Two functions in one section call each other without relocations: decoding is needed."""
    section = '__attribute__((section(".sched.text"), __noinline__))'
    source = (
        f"{section} static int g(int x) {{ return x; }}\n{section} int f(int x) {{ return 2; }}"
    )
    source += "\nint h(int x) { return g(x) + f(x); }"
    original, patched = (compiled(source, tmp_path, "unit.o") for _ in range(2))
    number = patched.section_number(".sched.text")
    assert number is not None
    data = bytearray(patched.sections[number].data)
    data[5] = 0x06  # no instruction in 64-bit mode
    patched.sections[number].data = bytes(data)
    assert "undecodable" in rules(judge(compare_objects(original, patched)))


def test_section_group(tmp_path: Path) -> None:
    original, patched = (compiled(SIMPLE, tmp_path, "unit.o") for _ in range(2))
    number = patched.section_number(".text.f")
    assert number is not None
    patched.sections[number].flags |= SectionFlag.GROUP
    members = np.array([1, number], dtype="<u4").tobytes()
    patched.add_section(Section(".group", SectionType.GROUP, 0, members, -1, 4, 4, info=1))
    assert rules(judge(compare_objects(original, patched))) == {"section-group"}


def test_indirect_function(tmp_path: Path) -> None:
    original = compiled(SIMPLE, tmp_path, "unit.o")
    patched = compiled(SIMPLE.replace("outside(x)", "outside(x) + 1"), tmp_path, "unit.o")
    (symbol,) = (each for each in patched.symbols if each.name == "f")
    symbol.type = SymbolType.GNU_IFUNC
    assert rules(judge(compare_objects(original, patched))) == {"ifunc"}


def test_table_of_an_unknown_layout(tmp_path: Path) -> None:
    source = (
        "int f(int x) { WARN_ON(x > 7); return x; }\nint g(int x) { WARN_ON(x < 2); return x; }"
    )
    original, patched = (compiled(source, tmp_path, "unit.o") for _ in range(2))
    number = patched.section_number("__bug_table")
    assert number is not None
    patched.sections[number].relocations["offset"][2] += 2
    assert "unknown-section" in rules(judge(compare_objects(original, patched)))


def test_symbols_that_overlap(tmp_path: Path) -> None:
    original, patched = (compiled(SIMPLE, tmp_path, "unit.o") for _ in range(2))
    number = patched.section_number(".text.f")
    assert number is not None
    patched.symbols.append(Symbol("inner", number, 5, 4, 1, SymbolType.FUNC))
    assert rules(judge(compare_objects(original, patched))) == {"overlapping-symbols"}


def test_a_symbol_beyond_its_section(tmp_path: Path) -> None:
    original, patched = (compiled(SIMPLE, tmp_path, "unit.o") for _ in range(2))
    (symbol,) = (each for each in patched.symbols if each.name == "f")
    symbol.size = 4096
    assert "relocation-out-of-range" in rules(judge(compare_objects(original, patched)))


def test_an_absolute_symbol(tmp_path: Path) -> None:
    original, patched = (compiled(SIMPLE, tmp_path, "unit.o") for _ in range(2))
    patched.symbols.append(Symbol("fixed", 0xFFF1, 4096, 0, 1))
    assert rules(judge(compare_objects(original, patched))) == {"unknown-symbol"}


# -- refused when the payload is cut, because it depends on the running kernel ---------------------

KEYED = (
    "extern struct static_key %s;\n"
    "int f(int x) { if (static_branch(&%s)) return outside(x); return %d; }"
)


def refusal(before: str, after: str, running: Running, folder: Path) -> set[str]:
    comparison = compared(before, after, folder)
    assert comparison.verdict == "changed"
    with pytest.raises(Refused) as caught:
        payload(comparison, running)
    assert all(reason.message and reason.remedy for reason in caught.value.reasons)
    return {reason.rule for reason in caught.value.reasons}


def test_module_static_key(tmp_path: Path) -> None:
    before, after = (KEYED % ("key", "key", number) for number in (1, 2))
    running = Running("ext4", modules={"key": "ext4"})
    assert refusal(before, after, running, tmp_path) == {"module-static-key"}


def test_a_static_key_in_vmlinux_is_not_refused(tmp_path: Path) -> None:
    before, after = (KEYED % ("key", "key", number) for number in (1, 2))
    assert payload(compared(before, after, tmp_path), Running("ext4")).warnings == ()


ALTERNATIVE = """
extern int f(int x), helper(void);
int f(int x) {
    int y = outside(x) + %d;
    asm volatile("1: nop; nop; nop; nop; nop\\n2:\\n.pushsection .altinstructions,\\"a\\"\\n"
        ".long 1b - .\\n.long 3f - .\\n.word 7\\n.byte 2b - 1b\\n.byte 4f - 3f\\n.popsection\\n"
        ".pushsection .altinstr_replacement,\\"ax\\"\\n3: call helper\\n4:\\n.popsection");
    return y;
}
"""


def test_module_alternative(tmp_path: Path) -> None:
    running = Running("ext4", modules={"helper": "ext4"})
    assert refusal(ALTERNATIVE % 1, ALTERNATIVE % 2, running, tmp_path) == {"module-alternative"}


def test_an_alternative_that_refers_to_vmlinux_is_not_refused(tmp_path: Path) -> None:
    comparison = compared(ALTERNATIVE % 1, ALTERNATIVE % 2, tmp_path)
    made = payload(comparison, Running("ext4"))
    assert "helper" in {reference.target.name for reference in made.piece.references}


def test_module_table(tmp_path: Path) -> None:
    """A fixup for a page fault that lies in another function of the module."""
    source = """
    extern void away(void);
    int f(int *x) { int y = %d;
        asm volatile("1: movl (%%1), %%0\\n.pushsection __ex_table,\\"a\\"\\n"
        ".long 1b - .\\n.long away - .\\n.long 1\\n.popsection" : "+r"(y) : "r"(x)); return y; }
    """
    running = Running("ext4", modules={"away": "ext4"})
    assert refusal(source % 1, source % 2, running, tmp_path) == {"module-table"}


def test_module_per_cpu(tmp_path: Path) -> None:
    after = (
        "int f(int x) { return x; }\nextern int there;\n"
        'int *mine __attribute__((section(".data..percpu"))) = &there;\n'
        "int g(int x) { return *mine + x; }"
    )
    running = Running("ext4", modules={"there": "ext4"})
    found = refusal("int f(int x) { return x; }", after, running, tmp_path)
    assert found == {"per-cpu-pointer"}


def test_short_branch(tmp_path: Path) -> None:
    section = '__attribute__((section(".sched.text"), __noinline__))'
    source = (
        f"static {section} int g(int x) {{ return outside(x); }}\n"
        f"{section} int f(int x) {{ return g(x + %d); }}"
    )
    assert refusal(source % 1, source % 2, Running(), tmp_path) == {"short-branch"}


def test_what_the_kernel_does_not_have(tmp_path: Path) -> None:
    before = "static noinline int g(int x) { return outside(x); }\nint f(int x) { return g(x); }"
    after = before.replace("return g(x)", "return g(x) + 1")
    running = Running(missing=("g", "f"))
    comparison = compared(before, after, tmp_path)
    with pytest.raises(Refused) as caught:
        payload(comparison, running)
    assert {reason.object for reason in caught.value.reasons} == {"f", "g"}


def test_nothing_is_cut_before_it_was_judged(tmp_path: Path) -> None:
    original = compiled(SIMPLE, tmp_path, "unit.o")
    with pytest.raises(ValueError, match="judged"):
        payload(compare_objects(original, original))
