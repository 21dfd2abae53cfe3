# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of sources for each architecture, and what comparing their objects has to say.

``make golden`` compiles them (:mod:`tests.golden.make_pairs`) and keeps the objects in
tests/golden/data, so that no test needs a cross compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

COMMON = r"""
#define __init __attribute__((section(".init.text")))
#define read_mostly __attribute__((section(".data..read_mostly")))
#define noinline __attribute__((noinline))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define STR2(x) #x
#define STR(x) STR2(x)
extern int printk(const char *text, ...) __attribute__((cold));
extern int outside(int x);
extern void __might_sleep(const char *file, int line);
struct static_key { int enabled; void *entries; };
#define WARN_ON(x) do { if (unlikely(x)) BUG_ENTRY(1); } while (0)
"""
"""What the kernel's headers make of some of their macros, in short."""

_STRINGS = r".pushsection .rodata.str,\"aMS\",@progbits,1\n"

# arch/*/include/asm/{bug,asm-bug}.h
_BUG_ENTRY = {
    "aarch64": r"""
asm volatile(".pushsection __bug_table,\"aw\"\n.align 2\n14470: .long 14471f - .\n"
    "STRINGS14472: .string \"" __FILE__ "\"\n.popsection\n.long 14472b - .\n.short %c0\n"
    ".short %c1\n.align 2\n.popsection\n14471: brk 0x800" : : "i"(__LINE__), "i"(flags))
""",
    "powerpc64le": r"""
asm volatile("1: twi 31,0,0\n.section __bug_table,\"aw\"\n2: .4byte 1b - .\n.4byte %0 - .\n"
    ".short %1,%2\n.org 2b+12\n.previous" : : "i"(__FILE__), "i"(__LINE__), "i"(flags))
""",
    "s390x": r"""
asm volatile("0: mc 0,0\nSTRINGS1: .asciz \"" __FILE__ "\"\n.popsection\n"
    ".section __bug_table,\"aw\"\n2: .long 0b-.\n.long 1b-.\n.short %0,%1\n.org 2b+12\n.previous"
    : : "i"(__LINE__), "i"(flags))
""",
    "loongarch64": r"""
asm volatile(".pushsection __bug_table,\"aw\"\n.align 2\n10000: .long 10001f - 10000b\n"
    "STRINGS10002: .string \"" __FILE__ "\"\n.popsection\n.long 10002b - 10000b\n"
    ".short %c0\n.short %c1\n.popsection\n10001: break 1" : : "i"(__LINE__), "i"(flags))
""",
}

_NOP = dict.fromkeys(("aarch64", "powerpc64le", "loongarch64"), "nop") | {"s390x": "brcl 0,0"}

# arch/*/include/asm/jump_label.h
_STATIC_BRANCH = r"""
static inline __attribute__((always_inline)) int static_branch(struct static_key *key)
{
    asm goto("1: NOP\n.pushsection __jump_table,\"aw\"\n.balign 8\n"
        ".long 1b - ., %l[yes] - .\n.8byte KEY - .\n.popsection" : : "i"(key) : : yes);
    return 0;
yes:
    return 1;
}
"""

# arch/arm64/include/asm/alternative-macros.h; arch/s390/include/asm/alternative.h;
# arch/loongarch/include/asm/alternative-asm.h; arch/powerpc/include/asm/feature-fixups.h
_ALTERNATIVE = {
    "aarch64": r"""
asm volatile("661: nop\n662: .pushsection .altinstructions,\"a\"\n.word 661b - .\n.word 663f - .\n"
    ".hword 3\n.byte 662b-661b\n.byte 664f-663f\n.popsection\n.subsection 1\n663: mov x9, " other
    "\n664: .previous")
""",
    "powerpc64le": r"""
asm volatile("96: nop\n.pushsection __ftr_alt_97,\"ax\"\n.align 3\n"
    "3: li 9, " other "\n4:\n.popsection\n97:\n.pushsection __ftr_fixup,\"a\"\n.align 3\n98:"
    ".8byte 1\n.8byte 1\n.8byte 96b-98b\n.8byte 97b-98b\n.8byte 3b-98b\n.8byte 4b-98b\n.popsection")
""",
    "s390x": r"""
asm volatile("771: lghi %%r1,0\n772: .pushsection .altinstructions,\"a\"\n.long 771b - .\n"
    ".long 774f - .\n.long 7\n.byte 772b-771b\n.popsection\n"
    ".pushsection .altinstr_replacement,\"ax\"\n774: lghi %%r1," other "\n.popsection" : : : "1")
""",
    "loongarch64": r"""
asm volatile("661: nop\n662: .pushsection .altinstructions,\"a\"\n.long 661b - .\n.long 663f - .\n"
    ".short 3\n.byte 4\n.byte 4\n.popsection\n.pushsection .altinstr_replacement,\"ax\"\n"
    "663: ori $t0, $zero, " other "\n.popsection")
""",
}


def preamble(architecture: str) -> str:
    """What stands before every source of an architecture."""
    key = "%c0" if architecture != "s390x" else "%0"
    texts = (_BUG_ENTRY[architecture], _ALTERNATIVE[architecture])
    entry, alternative = (
        text.strip().replace("\n", "\\\n").replace("STRINGS", _STRINGS) for text in texts
    )
    branch = _STATIC_BRANCH.replace("NOP", _NOP[architecture]).replace("KEY", key)
    return (
        f"{COMMON}\n#define BUG_ENTRY(flags) {entry}\n#define ALTERNATIVE(other) {alternative}\n"
        f"{branch}"
    )


@dataclass(frozen=True, slots=True)
class Case:
    """Two sources and what comparing them has to say.

    Args:
        before: the source before.
        after: the source after.
        changed: names of functions that changed.
        rules: rules that refuse it.
    """

    before: str
    after: str
    changed: tuple[str, ...] = ()
    rules: frozenset[str] = frozenset()


def _replaced(source: str, old: str, new: str, *changed: str, rule: str = "") -> Case:
    assert old in source
    return Case(source, source.replace(old, new), changed, frozenset(rule.split()))


LINES = "\n\n\n"

_WARN = "int f(int x) { WARN_ON(x > 7); return x + 3; }"
_LINE = (
    "int f(int x) { __might_sleep(__FILE__, __LINE__); return x; }\n"
    'int g(int x) { return printk("%s:%d: %d\\n", __FILE__, __LINE__, 9) + x; }'
)
_TWO_STATICS = (
    "int f(void) { static int count; return outside(++count); }\n",
    "int g(void) { static int count; return outside(count += 2); }\n",
)
_STATICS = "static noinline int a(int x) { return outside(x) * 3; }\n"
_CHARS = (
    "int f(char *p) { return p[0] == (char)200 ? outside(1) : p[1] < 0; }\n"
    "int g(int x) { static const signed char table[] = {-1, -2, 3, 4}; return table[x & 3]; }\n"
)
_INIT = (
    "static __init noinline int a(int x) { return outside(x) * 3; }\n"
    "static __init noinline int b(int x) { return outside(x) * 7; }\n"
    "__init int f(int x) { return a(x) + 1; }\n"
    "__init int g(int x) { return a(x) ^ b(x); }\n"
)
_HOT = (
    "static int a read_mostly = 1, b read_mostly = 2, c read_mostly = 3;\n"
    "int f(int x) { a += x; b -= x; c ^= x; return outside(a + b); }\n"
    "void set(int x) { b = x; a = x + 1; c = 4; }\n"
)
_SWITCH = (
    "int f(int x) { switch (x) {\n"
    + "".join(f"case {n}: return outside({n * n % 17}) * {n + 3};\n" for n in range(24))
    + "} return 0; }\n"
)
_KEY = (
    "extern struct static_key one, two;\n"
    "int f(int x) { if (static_branch(&one)) return outside(x); return x; }\n"
)
_FAULT = (
    'int f(int x) { asm volatile("1: NOP\\n2: NOP\\n3:\\n.pushsection __ex_table,\\"a\\"\\n'
    '.balign 4\\n.long 1b - ., 2b - .\\n.popsection"); return outside(x); }\n'
)
_ALTERNATIVES = (
    '__init int h(int x) { ALTERNATIVE("1"); return outside(x); }\n'
    '__init int i(int x) { ALTERNATIVE("2"); return outside(x) + 1; }\n'
    'int f(int x) { ALTERNATIVE("3"); return outside(x); }\n'
    'int g(int x) { ALTERNATIVE("4"); return outside(x); }\n'
)
_DESCRIPTOR = """
struct _ddebug { const char *mod, *func, *file, *format; unsigned lineno:18, class:6, flags:8; };
extern void __dynamic_pr_debug(struct _ddebug *descriptor, const char *text);
int f(int x) {
    static struct _ddebug __attribute__((section("__dyndbg"))) descriptor =
        {"m", __func__, __FILE__, "text", __LINE__, 1, 2};
    __dynamic_pr_debug(&descriptor, "text");
    return x;
}
"""
_POINTERS = (
    "static noinline int a(int x) { return outside(x) * 3; }\n"
    "static noinline int b(int x) { return outside(x) * 5; }\n"
    "int (*ops[])(int) = {a, b};\n"
    "int f(int x) { return ops[x](x); }\n"
)
_COLD = 'int f(int x) { if (unlikely(x > 7)) { printk("a"); outside(9); } return outside(x) * 3; }'

CASES: dict[str, Case] = {
    "body-changed": _replaced(_STATICS + "int f(int x) { return a(x); }", "* 3", "* 5", "a"),
    "bug-entry-line-only": Case(_WARN, LINES + _WARN),
    "bug-entry-flags": _replaced(
        _WARN.replace("WARN_ON(x > 7)", "if (unlikely(x > 7)) BUG_ENTRY(1)"),
        "ENTRY(1)", "ENTRY(3)", "f",
    ),
    "line-argument": Case(_LINE, LINES + _LINE),
    "long-line-argument": Case(
        '#line 40000 "fs/unit.c"\n' + _LINE, '#line 40010 "fs/unit.c"\n' + _LINE
    ),
    "an-immediate-that-is-no-line": _replaced(
        "int f(int x) { return outside(100); }", "100", "103", "f"
    ),
    "static-locals-renumbered": Case("".join(_TWO_STATICS), "".join(_TWO_STATICS[::-1])),
    "statics-exchanged": _replaced(
        "static int a, b;\nint f(void) { return outside(++a); }\n"
        "int g(void) { return outside(b += 2) + a; }\nvoid set(int x) { a = b = x; }\n",
        "++a", "++b", "f",
    ),
    "strings-in-another-order": Case(
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("two"); }\n',
        'int g(int x) { return printk("two"); }\nint f(int x) { return printk("one"); }\n',
    ),
    "string-changed": _replaced(
        'int f(int x) { return printk("one"); }\nint g(int x) { return printk("two"); }\n',
        "two", "six", "g",
    ),
    "cold-part-changed": _replaced(_COLD, "(9)", "(8)", "f"),
    "data-changed": _replaced("int limit = 7;", "7", "8", rule="data-changed"),
    "pointer-changed": _replaced(_POINTERS, "{a, b}", "{b, a}", rule="data-changed"),
    "character-changed": _replaced(_CHARS, "200", "201", "f"),
    "characters-changed": Case(
        _CHARS, _CHARS.replace("-2,", "-3,"), (), frozenset({"data-changed"})
    ),
    "call-in-one-section": _replaced(
        _INIT, "return a(x) + 1", "return b(x) + 1", "f",
        rule="init-code init-reference",
    ),
    "variable-in-one-section": _replaced(_HOT, "b -= x", "c -= x", "f"),
    "variables-exchanged": Case(
        _HOT,
        _HOT.replace("a read_mostly = 1, b read_mostly = 2, c read_mostly = 3",
                     "a read_mostly = 1, c read_mostly = 3, b read_mostly = 2"),
        ("f", "set"), frozenset({"section-layout"}),
    ),
    "switch-changed": _replaced(_SWITCH, "outside(9) * 6", "outside(9) * 60", "f"),
    "switch-labels-changed": _replaced(
        _SWITCH, "case 4: return outside(16) * 7;\ncase 5: return outside(8) * 8",
        "case 5: return outside(16) * 7;\ncase 4: return outside(8) * 8", "f",
    ),
    "jump-label-key-changed": _replaced(_KEY, "(&one)", "(&two)", "f"),
    "fault-handler-changed": _replaced(_FAULT, "2b - .", "3b - .", "f"),
    "alternative-changed": _replaced(_ALTERNATIVES, '"3"', '"5"', "f"),
    "alternative-in-one-section": _replaced(_ALTERNATIVES, '"1"', '"5"', "h", rule="init-code"),
    "alternatives-in-another-order": Case(
        _ALTERNATIVES, "".join(_ALTERNATIVES.splitlines(True)[i] for i in (0, 1, 3, 2))
    ),
    "descriptor-line-only": Case(_DESCRIPTOR, LINES + _DESCRIPTOR),
    "descriptor-flags": _replaced(_DESCRIPTOR, "__LINE__, 1, 2}", "__LINE__, 1, 3}", "f"),
    "no-ftrace-entry": _replaced(
        "__attribute__((no_instrument_function, NOT_TRACED)) int f(int x) { return outside(x); }",
        "(x)", "(x + 1)", "f", rule="no-ftrace-entry",
    ),
}  # fmt: skip
"""For every architecture."""


_TWO_PLACES = "int f(int x) { PLACE; return outside(x); }\nint g(int x) { PLACE; return 2; }"


def _place(table: str, field: str = ".8byte 1b - 2b") -> Case:
    """An entry of a table of places that goes is a change of the function that it speaks of."""
    place = (
        f'#define PLACE asm volatile("1: nop\\n.pushsection {table},\\"a\\"\\n.balign 4\\n'
        f'2: {field}\\n.popsection")\n'
    )
    gone = _TWO_PLACES.replace("PLACE; return 2", 'asm volatile("nop"); return 2')
    return Case(place + _TWO_PLACES, place + gone, ("g",))


_MMU = (
    '#define FEATURE asm("96: nop\\n97: nop\\n.pushsection __mmu_ftr_fixup,\\"a\\"\\n" \\\n'
    '".balign 8\\n98: .8byte 1\\n.8byte 1\\n.8byte 96b-98b\\n.8byte 97b-98b\\n" \\\n'
    '".8byte 96b-98b\\n.8byte 96b-98b\\n.popsection")\n'
    "__init int h(int x) { FEATURE; return outside(x); }\n"
    "int f(int x) { FEATURE; return outside(x) * 3; }\n"
)


def _fixup(before: str, after: str, back: str) -> Case:
    """Code that a fault leads to, in a section of its own."""
    source = (
        'int f(int x) { asm volatile("1: nop\\n2:\\n.pushsection .fixup,\\"ax\\"\\n'
        f'3: {before}\\n{back}\\n.popsection\\n.pushsection __ex_table,\\"a\\"\\n.balign 4\\n'
        '.long 1b - ., 3b - .\\n.popsection"); return outside(x); }\n'
    )
    return _replaced(source, before, after, "f")


_SUM = (
    'asm(".pushsection .rodata.sum,\\"a\\"\\nsum: .reloc ., R_LARCH_ADD32, f\\n'
    '.reloc ., R_LARCH_SUB32, g\\n.long 0\\n.size sum, 4\\n.popsection");\n'
)
_SUM += "int f(int x) { return outside(x); }\nint g(int x) { return outside(x + 1); }\n"
_SUM += "int h(int x) { return outside(x + 2); }\n"
_FEATURE = _replaced(_ALTERNATIVES, 'ALTERNATIVE("4"); return', "return", "g")

OF_ONE: dict[str, dict[str, Case]] = {
    "aarch64": {
        "alternative-gone": _FEATURE,
        "mapping-symbols": Case(
            'int f(int x) { asm volatile("b 1f\\n.word 1234\\n1: nop"); return outside(x); }\n',
            'int f(int x) { asm volatile("b 1f\\n.word 1234\\n1: nop"); return outside(x); }\n',
        ),
    },
    "powerpc64le": {
        "feature-gone": _FEATURE,
        "feature-without-other-code": _replaced(_MMU, "outside(x) * 3", "outside(x) * 5", "f"),
        "lwsync": _place("__lwsync_fixup"),
        "barrier-nospec": _place("__barrier_nospec_fixup"),
        "feature-of-the-mmu": _replaced(_MMU, "97b-98b", "97b+4-98b", "f", "h", rule="init-code"),
        "feature-of-the-firmware": _replaced(
            _MMU.replace("__mmu_ftr_fixup", "__fw_ftr_fixup"), "97b-98b", "97b+4-98b", "f", "h",
            rule="init-code",
        ),
        "fixup": _fixup("li 9,1", "li 9,2", "b 2b"),
        "toc-entry-changed": _replaced(
            "extern int one[], two[];\nint f(int x) { return outside(one[x]) + two[0]; }\n"
            "int g(int x) { return outside(two[x]); }\n",
            "outside(two[x])", "outside(one[x])", "g",
        ),
        "toc-entries-in-another-order": Case(
            "extern int one[], two[];\nint f(int x) { return outside(one[x]); }\n"
            "int g(int x) { return outside(two[x]); }\n",
            "extern int one[], two[];\nint g(int x) { return outside(two[x]); }\n"
            "int f(int x) { return outside(one[x]); }\n",
        ),
    },
    "s390x": {
        "alternative-gone": _FEATURE,
        "return-in-memory": _place(".s390_return_mem", ".long 1b - ."),
        "return-in-a-register": _place(".s390_return_reg", ".long 1b - ."),
        "fixup": _fixup("lghi %r1,1", "lghi %r1,2", "jg 2b"),
        "indirect-jump": _place(".s390_indirect_jump", ".long 1b - ."),
    },
    "loongarch64": {
        "alternative-gone": _FEATURE,
        "sum-of-two-symbols": _replaced(_SUM, "SUB32, g", "SUB32, h", rule="data-changed"),
    },
}  # fmt: skip
"""Tables and other peculiarities of one architecture."""


NOT_OF_CLANG = frozenset(
    # It names static locals and orders variables in its own way, which no Debian kernel has.
    {"characters-changed", "descriptor-flags", "descriptor-line-only", "variable-in-one-section",
     "variables-exchanged"}
)  # fmt: skip


def cases(architecture: str) -> dict[str, Case]:
    """All cases of an architecture."""
    left_out = NOT_OF_CLANG if architecture == "loongarch64" else frozenset[str]()
    common = {name: case for name, case in CASES.items() if name not in left_out}
    return common | OF_ONE[architecture]
