# SPDX-License-Identifier: GPL-2.0-or-later
"""From changed files of a real kernel to its translation units."""

from __future__ import annotations

import time

import pytest

from livegraft.errors import Refused
from livegraft.fix import units
from livegraft.fix.includes import hidden_by, include_index
from livegraft.fix.units import units_of
from livegraft.kbuild.special import reasons_beside_units
from livegraft.kernel.kernel import Kernel

pytestmark = pytest.mark.build

Changes = dict[str, bytes | None]


def changed(kernel: Kernel, path: str, old: str = "", new: str = "") -> Changes:
    """A change of `path`: `old` replaced, or a line at its end."""
    text = (kernel.source / path).read_text()
    if not old:
        return {path: f"{text}\n/* changed */\n".encode()}
    assert old in text
    return {path: text.replace(old, new, 1).encode()}


def paths(kernel: Kernel, changes: Changes) -> set[str]:
    return {unit.path for unit in units_of(changes, kernel).units}


def rules(kernel: Kernel, changes: Changes) -> set[tuple[str, str]]:
    try:
        reasons = units_of(changes, kernel).refused
    except Refused as refused:
        reasons = refused.reasons
    return {(reason.rule, reason.object) for reason in reasons}


def test_a_changed_c_file_is_its_unit(any_kernel: Kernel) -> None:
    (unit,) = units_of(changed(any_kernel, "fs/ext4/mballoc.c"), any_kernel).units
    assert (unit.path, unit.object) == ("fs/ext4/mballoc.c", "ext4")


def test_a_c_file_that_another_includes_is_a_header(kernel: Kernel) -> None:
    assert paths(kernel, changed(kernel, "kernel/sched/rt.c")) == {"kernel/sched/build_policy.c"}


def test_a_header_touches_those_that_read_it(any_kernel: Kernel) -> None:
    found = paths(any_kernel, changed(any_kernel, "fs/ext4/mballoc.h"))
    assert "fs/ext4/mballoc.c" in found
    everywhere = paths(any_kernel, changed(any_kernel, "fs/ext4/ext4.h"))
    assert found < everywhere
    assert len(everywhere) > 30 and all(path.startswith("fs/ext4/") for path in everywhere)


def test_what_a_unit_reads_is_asked_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    change = changed(kernel, "fs/ext4/mballoc.h")
    found = paths(kernel, change)

    def ask(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(units, "files_read", ask)
    assert paths(kernel, change) == found


def test_a_header_that_a_generated_one_includes_is_found(kernel: Kernel) -> None:
    """include/asm-generic/kmap_size.h is read through arch/x86/include/generated alone."""
    index = include_index(kernel)
    wrapper = "arch/x86/include/generated/asm/kmap_size.h"
    assert wrapper in index.includers("include/asm-generic/kmap_size.h")


REFUSED = {
    "Documentation/index.rst": "documentation-only",
    "MAINTAINERS": "documentation-only",
    "tools/lib/string.c": "not-kernel-code",
    "scripts/mod/modpost.c": "not-kernel-code",
    "fs/ext2/inode.c": "not-built",
    "fs/ext2/ext2.h": "not-built",
    "arch/arm64/kernel/entry.S": "not-built",
    "arch/x86/entry/entry_64.S": "assembly",
    "arch/x86/entry/vdso/vclock_gettime.c": "vdso",
    "lib/vdso/gettimeofday.c": "vdso",
    "fs/ext4/Makefile": "build-system",
    "fs/ext4/Kconfig": "build-system",
    "arch/x86/entry/syscalls/syscall_64.tbl": "generator-input",
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_refused_and_why(kernel: Kernel, path: str) -> None:
    assert rules(kernel, changed(kernel, path)) == {(REFUSED[path], path)}


def test_all_reasons_are_gathered(kernel: Kernel) -> None:
    some = ("Documentation/index.rst", "fs/ext2/inode.c", "fs/ext4/Makefile", "lib/vdso/Makefile")
    changes: Changes = {}
    for path in some:
        changes |= changed(kernel, path)
    assert rules(kernel, changes) == {
        ("documentation-only", some[0]),
        ("not-built", some[1]),
        ("build-system", some[2]),
        ("build-system", some[3]),
    }


def test_harmless_files_may_stand_beside_code(kernel: Kernel) -> None:
    changes = changed(kernel, "fs/ext4/mballoc.c")
    for path in ("Documentation/index.rst", "fs/ext2/inode.c", "tools/lib/string.c"):
        changes |= changed(kernel, path)
    touched = units_of(changes, kernel)
    assert [unit.path for unit in touched.units] == ["fs/ext4/mballoc.c"]
    assert {reason.rule for reason in touched.ignored} == {
        "documentation-only",
        "not-built",
        "not-kernel-code",
    }


def test_fatal_files_may_not(kernel: Kernel) -> None:
    changes = changed(kernel, "fs/ext4/mballoc.c") | changed(kernel, "scripts/mod/modpost.c")
    assert ("not-kernel-code", "scripts/mod/modpost.c") in rules(kernel, changes)


def test_a_unit_of_two_modules_is_there_once_for_each(kernel: Kernel) -> None:
    path = "drivers/net/ethernet/cavium/liquidio/lio_core.c"
    found = units_of(changed(kernel, path), kernel).units
    assert [(unit.path, unit.object, unit.is_shared) for unit in found] == [
        (path, "liquidio", True),
        (path, "liquidio_vf", True),
    ]
    assert len({unit.name for unit in found}) == 2


def test_new_and_deleted_files(kernel: Kernel) -> None:
    assert rules(kernel, {"fs/ext4/mballoc.c": None}) == {("build-system", "fs/ext4/mballoc.c")}
    assert rules(kernel, {"fs/ext4/new.c": b""}) == {("not-built", "fs/ext4/new.c")}
    header: Changes = {"fs/ext4/new.h": b""}
    touched = units_of(header | changed(kernel, "fs/ext4/mballoc.c"), kernel)
    assert [unit.path for unit in touched.units] == ["fs/ext4/mballoc.c"]


SPECIAL = {
    "offsets": (
        "include/linux/sched.h",
        "struct task_struct {\n#ifdef CONFIG_THREAD_INFO_IN_TASK",
        "struct task_struct {\n#ifdef CONFIG_THREAD_INFO_IN_TASK\nlong livegraft;",
        {"asm-offsets"},
    ),
    "a structure of its own": (
        "include/linux/sched.h",
        "struct task_struct {\n",
        "struct livegraft { int x; };\nstruct task_struct {\n",
        set(),
    ),
    "vdso": (
        "include/vdso/datapage.h",
        "struct vdso_timestamp {\n",
        "struct vdso_timestamp {\nu64 livegraft;\n",
        {"vdso"},
    ),
    "assembly": (
        "include/linux/linkage.h",
        "#define ASM_NL\t\t ;",
        "#define ASM_NL\t\t ; nop ;",
        {"assembly"},
    ),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_what_headers_do_beside_units(newest_kernel: Kernel, case: str) -> None:
    path, old, new, expected = SPECIAL[case]
    changes = changed(newest_kernel, path, old, new)
    includers = include_index(newest_kernel).closure(changes)
    reasons = reasons_beside_units(newest_kernel, includers, changes)
    assert {reason.rule for reason in reasons} == expected


def test_a_new_header_that_hides_another_has_its_readers(kernel: Kernel) -> None:
    """<linux/loop.h> is include/uapi/linux/loop.h as long as there is no other."""
    assert "drivers/block/loop.c" in paths(kernel, {"include/linux/loop.h": b"int more;\n"})
    hidden = set(hidden_by("arch/x86/include/asm/kmap_size.h", kernel.source, "x86"))
    assert hidden == {"include/asm-generic/kmap_size.h"}
    assert not set(hidden_by("include/linux/fs.h", kernel.source, "x86"))


def test_a_limit_names_what_the_fix_changes(kernel: Kernel) -> None:
    """Its own readers are there for the header that it hides."""
    with pytest.raises(Refused) as caught:
        units_of({"include/linux/loop.h": b"int more;\n"}, kernel, most=0)
    assert [(each.rule, each.object) for each in caught.value.reasons] == [
        ("too-many-units", "include/linux/loop.h")
    ]


def test_a_header_that_a_macro_names_is_found(any_kernel: Kernel) -> None:
    index = include_index(any_kernel)
    assert "include/linux/drbd_genl_api.h" in index.includers("include/linux/drbd_genl.h")


def test_every_unit_reads_what_each_compilation_is_given(any_kernel: Kernel) -> None:
    units = include_index(any_kernel).closure(["include/linux/types.h"])
    given = include_index(any_kernel).includers("include/linux/compiler-version.h")
    assert len(given) > 20_000
    assert {path for path in units if path.endswith(".c")} <= set(given)


def test_the_index_is_read_in_no_time(kernel: Kernel) -> None:
    include_index(kernel)
    started = time.monotonic()
    assert len(include_index(kernel).closure(["include/linux/fs.h"])) > 10_000
    assert time.monotonic() - started < 1
