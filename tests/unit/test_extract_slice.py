# SPDX-License-Identifier: GPL-2.0-or-later
"""The cut itself, on small C texts: the real preprocessor, the real parser, no kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.cut import UNIT, cut, kept, preprocess

from livegraft.errors import CompileError, Refused
from livegraft.extract.emission import Text
from livegraft.extract.sameness import _plain
from livegraft.extract.segments import Kind, segments
from livegraft.extract.selection import Wanted
from livegraft.extract.slice import slice_unit

HELPER = """\
static int helper(int a)
{
	return a * 2;
}

/* What the patch is about. */
static int patched(int a)
{
	return helper(a) + 1;
}

static int other(void)
{
	return patched(2);
}
"""


def test_a_function_comes_with_its_comment_and_nothing_else() -> None:
    text = kept(HELPER, "patched", running=["helper", "other"])
    assert "/* What the patch is about. */\nstatic int patched(int a)\n{" in text
    assert "return helper(a) + 1;" in text
    assert "other" not in text


def test_what_the_kernel_has_is_declared_only() -> None:
    text = kept(HELPER, "patched", running=["helper"])
    assert "extern int helper(int a);" in text
    assert "a * 2" not in text


def test_what_was_inlined_is_carried_with_its_body() -> None:
    text = kept(HELPER, "patched", running=["helper"], referred={"patched": []})
    assert "extern" not in text
    assert "static int helper(int a)\n{\n\treturn a * 2;" in text


def test_what_the_kernel_does_not_have_is_carried() -> None:
    assert "a * 2" in kept(HELPER, "patched")


def test_a_changed_helper_is_never_that_of_the_kernel() -> None:
    text = kept(HELPER, "patched", changed=["helper"], running=["helper"])
    assert "a * 2" in text


def test_lines_are_those_of_the_unit() -> None:
    text = kept(HELPER, "patched", running=["helper"])
    at = text.index("#line ")
    assert text[at:].startswith("#line 6\n/* What the patch is about. */")


def test_the_functions_that_are_replaced_are_marked() -> None:
    written = cut(HELPER, "patched", "other", running=["helper"]).text.main
    assert written.endswith("LIVEGRAFT_PATCHES(other);\nLIVEGRAFT_PATCHES(patched);\n")


VARIABLES = """\
struct thing { int a; };
typedef int (*callback)(int);
static struct thing table[4];
static unsigned long long count __attribute__((aligned(64))) = 7;
static const int factor = 3;
static callback call;
static int (*hook)(int, char *);
static const char *names[] = { "a", "b" };
static struct { int x; } unnamed;
static int unused;

int patched(int a)
{
	static int times;

	times++;
	return table[a].a + count + factor + call(a) + hook(a, 0) + (names[0] != 0) + unnamed.x;
}
"""


def test_variables_of_the_kernel_are_declared_with_their_types() -> None:
    running = ["table", "count", "factor", "call", "hook", "names", "unnamed"]
    text = kept(VARIABLES, "patched", running=running)
    for line in (
        *(
            "extern struct thing table[4];",
            "extern unsigned long long count __attribute__((aligned(64)));",
        ),
        *("extern const int factor;", "extern callback call;"),
        *("extern typeof(int (*)(int, char *)) hook;", "extern const char *names[2];"),
        *("struct thing { int a; };", "typedef int (*callback)(int);", "static int times;"),
    ):
        assert line in text, line
    assert "= 7" not in text
    assert "unused" not in text
    assert "static struct { int x; } unnamed;" in text  # no declaration can name its type


def test_a_constant_that_was_folded_is_carried_and_a_variable_is_not() -> None:
    text = kept(VARIABLES, "patched", running=["factor", "count"], referred={"patched": []})
    assert "static const int factor = 3;" in text
    assert "extern unsigned long long count __attribute__((aligned(64)));" in text


def test_new_variables_are_carried() -> None:
    text = kept(VARIABLES, "patched")
    assert "static unsigned long long count" in text
    assert "static struct thing table[4];" in text  # a definition without a value
    assert "extern" not in text


MACROS = """\
#define BEFORE 1
#include <stddef.h>
#define INNER(x) ((x) + FACTOR)
#define FACTOR 4
#define OUTER(x) INNER(x)
#define UNUSED 5
#define MAKE(name) static int make_##name(int a) { return a; } \\
	static int name##_count

MAKE(one);
MAKE(two);
#undef FACTOR
#define FACTOR 6

int patched(int a)
{
	return OUTER(a) + make_one(a);
}
"""


def test_macros_are_kept_as_far_as_they_are_needed() -> None:
    text = kept(MACROS, "patched")
    for line in ("#define BEFORE 1", "#include <stddef.h>", "#define FACTOR 6", "#undef FACTOR"):
        assert line in text
    assert "UNUSED" not in text


def test_what_a_macro_makes_is_taken_as_its_call() -> None:
    text = kept(MACROS, "patched", running=["make_one"])
    assert "MAKE(one);" in text
    assert "MAKE(two);" not in text


HIDDEN = """\
#define PASTE(a, b) a##b
#define CALL(x) PASTE(HID, DEN)(x)
#define HIDDEN(x) ((x) + 1)

int patched(int a)
{
	return CALL(a);
}
"""


def test_a_macro_that_no_text_mentions_is_found_by_asking_again() -> None:
    """The negative control: without the second look the cut would read ``HIDDEN(a)``, a call."""
    assert "#define HIDDEN(x) ((x) + 1)" in kept(HIDDEN, "patched")


COUNTER = """\
#define COUNT __COUNTER__
static int first = COUNT;

int patched(int a)
{
	return a + COUNT;
}
"""


def test_what_reads_differently_when_it_is_cut_out_is_refused() -> None:
    with pytest.raises(Refused) as error:
        cut(COUNTER, "patched", running=["first"])
    (reason,) = error.value.reasons
    assert (reason.rule, reason.object) == ("cut-differs", f"{UNIT}:4")
    assert "patched" in reason.message
    assert "--method compare" in reason.remedy


NESTED = """\
int patched(int a)
{
	int inner(int b) { return a + b; }

	return inner(1);
}
"""


def test_what_libclang_does_not_understand_is_refused_with_its_line() -> None:
    with pytest.raises(Refused) as error:
        cut(NESTED, "patched")
    reason = error.value.reasons[0]
    assert (reason.rule, reason.object) == ("not-parsed", f"{UNIT}:3")
    assert "function definition is not allowed here" in reason.message
    assert "--method compare" in reason.remedy


CONDITIONS = """\
#ifdef NOWHERE
static int helper(int a)
{
	if (a) {
#else
static int helper(int a)
{
	if (!a) {
#endif
		return 1;
	}
	return 2;
}

#ifdef NOWHERE
static int patched(void) { return 1; }
#else
static int patched(void)
{
	return helper(2);
}
#endif
"""


def test_the_branch_that_holds_is_taken() -> None:
    text = kept(CONDITIONS, "patched")
    assert "return helper(2);" in text
    assert "{ return 1; }" not in text
    assert "if (!a) {" in text


def test_a_branch_that_does_not_hold_may_have_branches_in_it() -> None:
    """``#if defined(CONFIG_DEBUG_VM_MAPLE_TREE)`` of mm/mmap.c."""
    text = "#ifdef NOWHERE\nstatic void no(void)\n{\n#ifdef NEVER\n\tint a;\n#endif\n\tno();\n}\n"
    text += "#endif\nint patched(void)\n{\n\treturn 1;\n}\n"
    found = segments(text, {line for line, _ in preprocess(text).words()})
    code = [text[each.start : each.end] for each in found if each.kind is not Kind.CONDITION]
    assert code == ["int patched(void)\n{\n\treturn 1;\n}"]


def test_a_function_over_several_branches_is_one_segment() -> None:
    found = segments(CONDITIONS, {line for line, _ in preprocess(CONDITIONS).words()})
    functions = [each for each in found if each.kind is Kind.FUNCTION]
    assert [each.name for each in functions] == ["helper", "patched"]
    assert CONDITIONS[functions[0].start :].startswith("#ifdef NOWHERE")


def test_a_macro_s_call_without_semicolon_ends_at_the_next_line() -> None:
    text = "#define FNS(x) static int x##_get(void) { return 0; }\nFNS(one)\nFNS(two)\nint a;\n"
    found = segments(text, {line for line, _ in preprocess(text).words()})
    assert [text[each.start : each.end] for each in found[1:]] == ["FNS(one)", "FNS(two)", "int a;"]


def test_declarations_in_front_of_a_definition_stay() -> None:
    text = "static int late(int);\n\nint patched(int a)\n{\n\treturn late(a);\n}\n\n"
    text += "static int late(int a)\n{\n\treturn a;\n}\n"
    carried = kept(text, "patched")
    assert carried.index("static int late(int);") < carried.index("int patched(int a)")
    declared = kept(text, "patched", running=["late"])
    assert declared.index("extern int late(int a);") < declared.index("int patched(int a)")


def test_attributes_that_callers_need_stay() -> None:
    text = "__attribute__((noreturn)) static inline void stop(int a);\n"
    text += "__attribute__((noreturn)) static inline void stop(int a)\n{\n\tfor (;;);\n}\n"
    text += "void patched(void)\n{\n\tstop(1);\n}\n"
    found = kept(text, "patched", running=["stop"])
    assert "extern __attribute__((noreturn)) void stop(int a);" in found


def test_a_cleanup_function_is_needed() -> None:
    text = "static void drop(int *a)\n{\n\t*a = 0;\n}\n\n"
    text += (
        "int patched(void)\n{\n\tint a __attribute__((__cleanup__(drop))) = 1;\n\treturn a;\n}\n"
    )
    assert "static void drop(int *a)" in kept(text, "patched")


def test_new_functions_that_other_units_call_are_taken() -> None:
    text = "int added(void)\n{\n\treturn 1;\n}\n\nint other(void)\n{\n\treturn 2;\n}\n"
    found = kept(text, changed=["added"], shared=["added"])
    assert "int added(void)" in found
    assert "other" not in found


def test_what_an_included_file_needs_stands_before_it(tmp_path: Path) -> None:
    """``typedef u32 block_t;`` in front of ``#include "itree_common.c"``."""
    included = tmp_path / "common.c"
    included.write_text("static block_t common(block_t a)\n{\n\treturn a + SIZE;\n}\n")
    text = "typedef int block_t;\nenum { SIZE = 3 };\nstruct no { int a; };\n"
    text += f'#include "{included}"\n'
    text += "int patched(void)\n{\n\treturn common(1);\n}\n"
    found = kept(text, "patched")
    assert found.index("typedef int block_t;") < found.index("#include")
    assert "enum { SIZE = 3 };" in found
    assert "struct no" not in found


def test_a_type_that_was_overlooked_is_taken_at_the_second_try() -> None:
    """A cut that does not compile is made again with all types of the file."""
    text = "struct far { int a; };\nint patched(void)\n{\n\treturn 1;\n}\n"
    tried: list[str] = []

    def fussy(written: Text) -> None:
        tried.append(written.main)
        if "struct far" not in written.main:
            raise CompileError(UNIT, "does not compile: struct far", "correct the fix")

    def never(written: Text) -> None:
        raise CompileError(UNIT, "does not compile: struct near", "correct the fix")

    wanted = Wanted({"patched"}, set(), {"patched"}, set(), {})
    slice_unit(UNIT, text, preprocess(text), wanted, preprocess, fussy)
    assert len(tried) == 2
    with pytest.raises(Refused) as error:
        slice_unit(UNIT, text, preprocess(text), wanted, preprocess, never)
    (reason,) = error.value.reasons
    assert reason.rule == "cut-differs"
    assert "struct near" in reason.message


def test_directives_of_branches_that_do_not_hold_are_left_out() -> None:
    text = "#ifdef NOWHERE\n#error impossible\n#endif\n#ifndef NOWHERE\n#pragma pack(4)\n#endif\n"
    text += "int patched(void)\n{\n\treturn 1;\n}\n"
    found = kept(text, "patched")
    assert "#error" not in found
    assert "#ifndef NOWHERE\n#pragma pack(4)\n#endif" in found


def test_a_head_with_a_condition_is_not_declared_but_carried() -> None:
    text = "static int helper(int a\n#ifdef NOWHERE\n\t, int b\n#endif\n\t)\n{\n\treturn a;\n}\n"
    text += "int patched(void)\n{\n\treturn helper(1);\n}\n"
    found = kept(text, "patched", running=["helper"])
    assert "extern" not in found
    assert "return a;" in found


def test_what_the_file_itself_declares_of_other_units_stays() -> None:
    text = "extern int shared(void);\nextern int no(void);\n"
    text += "int patched(void)\n{\n\treturn shared();\n}\n"
    found = kept(text, "patched")
    assert "extern int shared(void);" in found
    assert "no(void)" not in found


@pytest.mark.parametrize("tag", ["foo", ""])
def test_a_variable_beside_its_type_is_not_taken_for_a_constant(tag: str) -> None:
    """Who writes it stays behind, so that the compiler would take its initial value for good."""
    text = f"static struct {tag} {{ int a; }} state;\n" + (
        "void set(int a) { state.a = a; }\nint patched(int a) { return state.a == a; }\n"
    )
    found = kept(text, "patched", running=("state", "set"))
    assert "void set" not in found
    assert "state" in code_of_patched(found)


def code_of_patched(text: str) -> str:
    """What the compiler makes of the function ``patched``."""
    made = subprocess.run(
        ["gcc", "-O2", "-S", "-x", "c", "-", "-o", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.partition("patched:")[2].partition(".cfi_endproc")[0]


def test_a_variable_of_an_included_file_is_not_taken_for_a_constant(tmp_path: Path) -> None:
    included = tmp_path / "common.c"
    included.write_text(
        "static int state = 1, idle = 2;\nstatic const int limit = 3;\n"
        "static int get(void)\n{\n\treturn state + limit;\n}\n"
        "static void set(int a)\n{\n\tstate = a;\n\tidle = a;\n}\n"
    )
    text = f'#include "{included}"\nvoid other(int a)\n{{\n\tset(a);\n}}\n'
    text += "int patched(void)\n{\n\treturn get();\n}\n"
    running = ("state", "idle", "limit", "set", "other")
    found = kept(text, "patched", running=running, referred={"patched": ["state"]})
    assert "void other" not in found
    assert "idle" not in found
    assert "state" in code_of_patched(found)


def test_nothing_is_exported_again() -> None:
    """Neither what is defined, nor what assembly defines and this file exports (``memcpy``)."""
    text = "#define EXPORT_SYMBOL(s) extern typeof(s) s; \\\n"
    text += '\tasm(".section \\"__ksymtab_strings\\",\\"a\\"\\n\\t.previous")\n'
    text += "int late(void);\nint other(void);\nEXPORT_SYMBOL(other);\n"
    text += "int patched(void)\n{\n\treturn late() + other();\n}\nEXPORT_SYMBOL(patched);\n"
    text += "int late(void)\n{\n\treturn 1;\n}\nEXPORT_SYMBOL(late);\n"
    found = kept(text, "patched")
    assert "EXPORT_SYMBOL(" not in found.replace("#define EXPORT_SYMBOL(", "")
    for each in ("int late(void);", "int other(void);", "int late(void)\n{"):
        assert each in found


def test_a_builtin_function_that_only_the_compiler_knows_needs_its_arguments() -> None:
    """``isdigit()`` of linux/ctype.h is ``__builtin_isdigit()``."""
    text = "static int next(int a)\n{\n\treturn a + 1;\n}\n"
    text += "int patched(int a)\n{\n\treturn __builtin_isdigit(next(a));\n}\n"
    found = kept(text, "patched")
    assert "static int next(int a)" in found
    assert "return __builtin_isdigit(next(a));" in found


def test_a_counted_name_in_a_string_is_no_difference() -> None:
    """``min(READ_ONCE(a), b)`` of 6.12 has all of its argument in a message."""
    text = "#define JOIN_(a, b) a##b\n#define JOIN(a, b) JOIN_(a, b)\n#define STRING(x) #x\n"
    text += "#define SAID(x) STRING(x)\n#define NAME JOIN(__compiletime_assert_, __COUNTER__)\n"
    text += "int first = sizeof(SAID(NAME));\n"
    text += "const char *patched(void)\n{\n\treturn SAID(NAME);\n}\n"
    assert "return SAID(NAME);" in kept(text, "patched")


def test_another_number_in_a_name_is_a_difference() -> None:
    """``__u32`` is no ``__u64``, and no counted name."""
    words = "__UNIQUE_ID_word{} __u{}"
    assert _plain(words.format(1, 32)) == _plain(words.format(2, 32))
    assert _plain(words.format(1, 32)) != _plain(words.format(1, 64))
