# SPDX-License-Identifier: GPL-2.0-or-later
"""Payloads: what is in them, and that they run as they should beside the original unit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.compare_pairs import Running, compared, compiled, names_of, payload, run

from livegraft.changeset import VMLINUX, State, Target
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.cut import OFF_KEY, Cut
from livegraft.elf import object as elf
from livegraft.elf.object import Binding, ElfObject, SymbolType
from livegraft.verdict.judge import judge


def made(before: str, after: str, folder: Path, running: Running | None = None) -> Cut:
    return payload(compared(before, after, folder), running)


def parts(cut: Cut) -> ElfObject:
    return elf.parse(cut.piece.data)


def targets(cut: Cut) -> set[str]:
    return {reference.target.name for reference in cut.piece.references}


def run_pair(before: str, after: str, main: str, folder: Path) -> str:
    """Run a `main` that sees the original's functions, and the new ones as ``lg_fs_unit_*``."""
    comparison: Comparison = compared(before, after, folder)
    return run(compiled(before, folder, "original.o"), payload(comparison), main, folder)


COUNTERS = """
int f(void) { static int count; return ++count; }
int g(void) { static int count = 100; return ++count%s; }
"""


def test_static_local_renumbered_keeps_its_counter(tmp_path: Path) -> None:
    """A third counter in front renumbers the two; the new code has to count on with the old one."""
    before = COUNTERS % ""
    after = (
        "int e(void) { static int count = 7; return ++count; }\n"
        + COUNTERS.replace("return ++count;", "return count += 10;", 1) % " + e()"
    )
    main = """
    extern int f(void), g(void), lg_fs_unit_f(void), lg_fs_unit_g(void);
    int main(void) {
        f(); f(); g(); g(); g();
        printf("%d ", lg_fs_unit_f());
        printf("%d ", lg_fs_unit_g());
        return printf("%d", g()) < 0;
    }
    """
    assert run_pair(before, after, main, tmp_path) == "12 112 105"


def test_new_static_local_is_told(tmp_path: Path) -> None:
    comparison = compared(
        "int f(void) { return outside(1); }",
        "int f(void) { static int count = 3; return outside(1) + ++count; }",
        tmp_path,
    )
    (warning,) = comparison.warnings
    assert warning.startswith("count.") and "initial value" in warning
    main = 'extern int lg_fs_unit_f(void); int main(void) { printf("%d", lg_fs_unit_f()); }'
    original = compiled("int f(void) { return outside(1); }", tmp_path, "original.o")
    assert run(original, payload(comparison), main, tmp_path) == "1005"


def test_function_pointer_to_changed_means_the_original(tmp_path: Path) -> None:
    """A pointer that was stored before must equal one that the new code takes."""
    source = """
    int f(int x);
    int (*stored)(int) = f;
    int f(int x) { return x + %d; }
    int same(void) { int (*mine)(int) = f; asm("" : "+r"(mine)); return (mine == stored) + %d; }
    int call(int x) { return f(x) * %d; }
    """
    main = """
    extern int lg_fs_unit_same(void), lg_fs_unit_call(int);
    int main(void) { printf("%d %d", lg_fs_unit_same(), lg_fs_unit_call(1)); return 0; }
    """
    flags = source.replace("int f(int x) {", "noinline int f(int x) {")
    found = run_pair(flags % (1, 10, 3), flags % (5, 20, 4), main, tmp_path)
    assert found == "21 24"  # the stored pointer is the same; a direct call goes to the new code


def test_new_data_points_to_the_original_function(tmp_path: Path) -> None:
    before = "noinline int f(int x) { return x + 1; }\nint g(int x) { return x; }"
    after = """
    noinline int f(int x) { return x + 2; }
    static int (*table[])(int) = { f, f };
    int g(int x) { return x + (table[x & 1] == f) + table[x & 1](0) * 10; }
    """
    main = 'extern int lg_fs_unit_g(int); int main(void) { printf("%d", lg_fs_unit_g(100)); }'
    assert run_pair(before, after, main, tmp_path) == "111"  # ftrace is not there to redirect it


def test_cold_part_comes_with_its_function(tmp_path: Path) -> None:
    source = 'int f(int x) { if (x > 7) printk("cold %%d\\n", x * %d); return x * 3; }'
    cut = made(source % 2, source % 3, tmp_path)
    assert {".text.f", ".text.f.cold"} <= {section.name for section in parts(cut).sections}
    main = "extern int lg_fs_unit_f(int); int main(void) { lg_fs_unit_f(9); return 0; }"
    assert run_pair(source % 2, source % 3, main, tmp_path) == "cold 27\n"


def test_strings_constants_and_switches_come_along(tmp_path: Path) -> None:
    source = """
    int f(int x) {
        static const char *const words[] = {"zero", "one", "two", "three"};
        printk("%%s %%s\\n", words[x & 3], __func__);
        switch (x) { case 0: return 31; case 1: return 17; case 2: return 9; case 3: return %d;
                     case 4: return 8; case 5: return 77; }
        return 0;
    }
    """
    main = """
    extern int lg_fs_unit_f(int);
    int main(void) { for (int i = 0; i < 6; i++) printf("%d\\n", lg_fs_unit_f(i)); return 0; }
    """
    expected = "zero f\n31\none f\n17\ntwo f\n9\nthree f\n2\nzero f\n8\none f\n77\n"
    assert run_pair(source % 1, source % 2, main, tmp_path) == expected


def test_functions_of_one_section_are_torn_apart(tmp_path: Path) -> None:
    """The assembler resolves calls within ``.sched.text`` itself: there is no relocation."""
    section = '__attribute__((section(".sched.text"), __noinline__))'
    source = (
        f"static {section} int g(int x) {{ return outside(x) * 2; }}\n"
        f"{section} int f(int x) {{ return g(x) + g(x + 1) + %d; }}\n"
        f"{section} int h(int x) {{ return outside(x) + g(x) * 3 + f(x); }}\n"
    )
    comparison = compared(source % 1, source % 2, tmp_path)
    assert comparison.changed == ("f",)
    main = 'extern int lg_fs_unit_f(int); int main(void) { printf("%d", lg_fs_unit_f(1)); }'
    original = compiled(source % 1, tmp_path, "original.o")
    assert run(original, payload(comparison), main, tmp_path) == "4008"


READ_MOSTLY = """
#define hot __attribute__((section(".data..read_mostly")))
static int a hot = 1, b hot = 2, c hot = 3;
int f(int x) { if (b == 2) c = 0x1234567; b = 5; return x + %d; }
int *where(int x) { return x ? &a : x + 1 ? &b : &c; }
int sum(void) { return a * 10000 + b * 1000 + c; }
"""


def test_variables_of_one_section_are_told_apart(tmp_path: Path) -> None:
    """``cmpl $2, b(%rip)``, ``movl $0x1234567, c(%rip)``: addends depend on the immediate."""
    cut = made(READ_MOSTLY % 1, READ_MOSTLY % 2, tmp_path)
    assert targets(cut) == {"b", "c"}
    main = """
    extern int lg_fs_unit_f(int), sum(void);
    int main(void) { int y = lg_fs_unit_f(1); printf("%d %d", y, sum()); return 0; }
    """
    found = run_pair(READ_MOSTLY % 1, READ_MOSTLY % 2, main, tmp_path)
    assert found == f"3 {10000 + 5000 + 0x1234567}"


def test_new_global_function_stays_global(tmp_path: Path) -> None:
    cut = made(
        "int f(int x) { return x; }",
        "noinline int g(int x) { return outside(x); }\nint f(int x) { return g(x); }",
        tmp_path,
    )
    bindings = {symbol.name: symbol.binding for symbol in parts(cut).symbols}
    assert (bindings["g"], bindings["f"]) == (Binding.GLOBAL, Binding.LOCAL)
    assert bindings["lg_fs_unit_f"] == Binding.GLOBAL
    states = {function.target.name: function.state for function in cut.piece.functions}
    assert states == {"f": State.CHANGED, "g": State.NEW}


def test_only_what_is_needed_is_in_the_payload(tmp_path: Path) -> None:
    source = """
    int state = 3;
    static noinline int same(int x) { WARN_ON(x); return outside(x) + state; }
    int f(int x) { WARN_ON(x > 7); printk("mine"); return same(x) + state + %d; }
    int other(int x) { WARN_ON(x > 9); printk("not mine"); return same(x); }
    """
    cut = made(source % 1, source % 2, tmp_path)
    obj = parts(cut)
    defined = {symbol.name for symbol in obj.symbols if symbol.in_section and symbol.name}
    assert defined == {"f", "f.cold", "lg_fs_unit_f"}
    assert b"not mine" not in cut.piece.data
    sizes = {section.name: section.size for section in obj.sections}
    assert (sizes["__bug_table"], sizes["__mcount_loc"]) == (12, 8)
    assert targets(cut) == {"same", "state"}
    assert {symbol.name for symbol in obj.symbols if symbol.is_undefined} - {""} == {
        *("__fentry__", "printk"),
        *(reference.symbol for reference in cut.piece.references),
    }
    names = {section.name for section in obj.sections}
    assert not any(name.startswith((".comment", ".note", ".debug", ".init")) for name in names)


def test_references_name_their_targets(tmp_path: Path) -> None:
    source = "extern int there(int);\nint f(int x) { return there(x) + outside(x) + %d; }"
    running = Running("ext4", modules={"there": "jbd2"})
    cut = made(source % 1, source % 2, tmp_path, running)
    found = {reference.target: reference for reference in cut.piece.references}
    assert found[Target("jbd2", "there", 1)].owner == "ext4"
    assert found[Target(VMLINUX, "outside", 1)].owner == VMLINUX
    assert all(reference.symbol.isidentifier() for reference in found.values())


TRACED = """
extern struct { char *name; struct static_key key; } __tracepoint_ext4_thing;
int f(int x) {
    if (static_branch(&__tracepoint_ext4_thing.key)) { outside(x); outside(x + 1); }
    return x + %d;
}
"""


def test_jump_label_of_a_modules_tracepoint_is_turned_off(tmp_path: Path) -> None:
    running = Running("ext4", modules={"__tracepoint_ext4_thing": "ext4"})
    cut = made(TRACED % 1, TRACED % 2, tmp_path, running)
    assert cut.warnings == ("f: the new code does not fire tracepoint ext4_thing",)
    obj = parts(cut)
    number = obj.section_number("__jump_table")
    assert number is not None
    key = obj.sections[number].relocations[2]
    section = obj.symbols[int(key["symbol"])].section
    (off,) = (symbol for symbol in obj.symbols if symbol.name == OFF_KEY)
    assert (section, int(key["addend"])) == (off.section, 2)
    assert "__tracepoint_ext4_thing" not in targets(cut)


def test_jump_label_of_vmlinux_stays(tmp_path: Path) -> None:
    cut = made(TRACED % 1, TRACED % 2, tmp_path, Running("ext4"))
    assert cut.warnings == ()
    assert OFF_KEY not in names_of(parts(cut))
    assert "__tracepoint_ext4_thing" in targets(cut)


def test_a_call_that_does_not_return_is_marked(tmp_path: Path) -> None:
    """objtool would not know ``do_exit`` under its new name."""
    source = (
        "void do_exit(int) __attribute__((noreturn));\n"
        "int f(int x) { if (x) do_exit(%d); return 1; }"
    )
    obj = parts(made(source % 1, source % 2, tmp_path))
    number = obj.section_number(".discard.unreachable")
    assert number is not None
    entry = obj.sections[number].relocations[0]
    code = obj.symbols[int(entry["symbol"])].section
    data = obj.sections[code].data
    assert data[int(entry["addend"]) - 5] == 0xE8


def test_the_payload_is_a_valid_object(tmp_path: Path) -> None:
    cut = made(TRACED % 1, TRACED % 2, tmp_path)
    file = tmp_path / "piece.o"
    file.write_bytes(cut.piece.data)
    done = subprocess.run(["readelf", "-aW", file], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stdout + done.stderr
    subprocess.run(["ld", "-r", "-o", tmp_path / "linked.o", file], check=True)


def test_padding_in_front_of_functions_comes_along(tmp_path: Path) -> None:
    """Since 6.2 with call depth tracking: 16 bytes in front that ftrace and the thunks use."""
    flags = ("-ffunction-sections", "-fdata-sections", "-fpatchable-function-entry=16,16")
    source = "int f(int x) { return outside(x) + %d; }"
    original = compiled(source % 1, tmp_path, "original.o", flags)
    patched = compiled(source % 2, tmp_path, "patched.o", flags)
    obj = parts(payload(judge(compare_objects(original, patched))))
    (symbol,) = (each for each in obj.symbols if each.name == "f" and each.type == SymbolType.FUNC)
    assert symbol.value == 16
    (table,) = (each for each in obj.sections if each.name == "__patchable_function_entries")
    assert table.link == symbol.section
    assert table.relocations["addend"].tolist() == [0]


@pytest.mark.parametrize("count", [4, 32])
def test_per_cpu_variables_share_one_section_name(count: int, tmp_path: Path) -> None:
    """The module loader looks for one section of that name; the linker joins them."""
    percpu = '__attribute__((section(".data..percpu..shared_aligned")))'
    variables = "".join(f"int v{n} {percpu} = {n};\n" for n in range(count))
    reads = " + ".join(f"v{n}" for n in range(count))
    obj = parts(
        made(
            "int f(int x) { return x; }",
            f"{variables}int f(int x) {{ return x + {reads}; }}",
            tmp_path,
        )
    )
    found = [section for section in obj.sections if "percpu" in section.name]
    assert len(found) == count
    assert {section.name for section in found} == {".data..percpu"}
    assert np.sum([section.size for section in found]) == 4 * count
