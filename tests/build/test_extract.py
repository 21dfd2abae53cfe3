# SPDX-License-Identifier: GPL-2.0-or-later
"""Live patches that are cut out of the source, on a real kernel with the real compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixes import Edits

from livegraft import pipeline
from livegraft.changeset import VMLINUX, State, Target
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.errors import FixError
from livegraft.extract.folder import INDEX, read_folder, write_folder
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Method, Outcome, Verdict

pytestmark = pytest.mark.build

FixOf = Callable[[Edits], Path]

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"
OBJECTS = Path(__file__).parents[1] / "data/authors/objects.patch"
CMDLINE = "fs/proc/cmdline.c"
VERSION = "fs/proc/version.c"
EVENTFD = "fs/eventfd.c"
PROC = "fs/proc/root.c"
NETFS = "fs/netfs/objects.c"
MINIX = "fs/minix/itree_v2.c"
KMOD = "kernel/kmod.c"
PANIC = "kernel/panic.c"
XFS = "fs/xfs/xfs_iops.c"
SHOW = "static int cmdline_proc_show(struct seq_file *m, void *v)\n{\n"


def extracted(kernel: Kernel, fix: Path) -> Outcome:
    outcome = pipeline.check([fix], kernel, method=Method.EXTRACT)
    assert outcome.verdict is Verdict.PATCHABLE, outcome.reasons
    assert outcome.changes is not None
    assert outcome.changes.method == "extract"
    return outcome


def changed(outcome: Outcome) -> list[tuple[str, str, int]]:
    """Object, name and sympos of each function that is redirected."""
    return sorted(
        (each.target.object, each.target.name, each.target.sympos)
        for each in outcome.functions
        if each.state is State.CHANGED
    )


def pieces(outcome: Outcome) -> list[ElfObject]:
    assert outcome.changes is not None
    return [elf.parse(piece.data, piece.unit) for piece in outcome.changes.pieces]


def targets(outcome: Outcome) -> set[Target]:
    """What the pieces refer to in the running kernel."""
    assert outcome.changes is not None
    return {each.target for piece in outcome.changes.pieces for each in piece.references}


def text(outcome: Outcome) -> str:
    (only,) = outcome.extracted
    return only.text


def defined(outcome: Outcome) -> set[str]:
    return {s.name for piece in pieces(outcome) for s in piece.symbols if s.in_section}


def test_one_function_is_a_page(any_kernel: Kernel) -> None:
    outcome = extracted(any_kernel, SAMPLE)
    assert changed(outcome) == [(VMLINUX, "cmdline_proc_show", 1)]
    assert text(outcome).count("\n") <= 20
    assert "proc_cmdline_init" not in text(outcome)
    assert "#include <linux/seq_file.h>" in text(outcome)
    compared = pipeline.check([SAMPLE], any_kernel)
    assert targets(outcome) == targets(compared)


def test_new_functions_and_variables_are_brought(kernel: Kernel, fix_of: FixOf) -> None:
    new = (
        "static int livegraft_calls;\n\n"
        "static noinline void livegraft_count(struct seq_file *m)\n{\n"
        '\tseq_printf(m, "%d ", livegraft_calls++);\n}\n\n'
    )
    outcome = extracted(kernel, fix_of({CMDLINE: (SHOW, f"{new}{SHOW}\tlivegraft_count(m);\n")}))
    assert changed(outcome) == [(VMLINUX, "cmdline_proc_show", 1)]
    assert {"livegraft_calls", "livegraft_count"} <= defined(outcome)


@pytest.mark.parametrize("numbered_anew", [False, True])
def test_a_static_local_is_the_running_one(
    numbered_anew: bool, kernel: Kernel, fix_of: FixOf
) -> None:
    """``debug_ids.0`` of netfs, also where another static variable takes its number."""
    declared = "\tstatic atomic_t debug_ids;\n"
    edit = ("atomic_inc_return(&debug_ids)", "atomic_add_return(2, &debug_ids)")
    if numbered_anew:
        calls = "\tstatic atomic_t livegraft_calls;\n"
        edit = (declared, f"{calls}{declared}\tatomic_inc(&livegraft_calls);\n")
    outcome = extracted(kernel, fix_of({NETFS: edit}))
    assert changed(outcome) == [("netfs", "netfs_alloc_request", 1)]
    assert "static atomic_t debug_ids;" in text(outcome)
    assert Target("netfs", "debug_ids.0", 1) in targets(outcome)
    assert not [name for name in defined(outcome) if name.startswith("debug_ids")]
    new = [name for name in defined(outcome) if name.startswith("livegraft_calls")]
    assert len(new) == numbered_anew


def test_a_static_local_of_a_helper_that_is_inlined_here_only(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    """``spin_counter.0`` of ``do_oops_enter_exit.part.0``, which ``oops_exit`` has inlined here.

    The source has only one of that name; of a text that was edited nothing is known.
    """
    head = "void oops_exit(void)\n{\n"
    fix = fix_of({PANIC: (head, f'{head}\tasm("nop");\n')})
    outcome = extracted(kernel, fix)
    assert changed(outcome) == [(VMLINUX, "oops_exit", 1)]
    assert Target(VMLINUX, "spin_counter.0", 1) in targets(outcome)
    assert not [name for name in defined(outcome) if name.startswith("spin_counter")]
    file = review(kernel, fix, tmp_path / "review")
    outcome = edited(kernel, file, f"{file.read_text()}/* Seen. */\n")
    assert reasons(outcome) == [("static-local-ambiguous", "spin_counter.0")]


def test_callers_of_a_changed_clone_bring_it_along(kernel: Kernel, fix_of: FixOf) -> None:
    """``proc_apply_options.isra.0`` is called as only its own compilation knows."""
    edit = ("\t\tfs_info->pid_gid =", "\t\tfs_info->hide_pid = 0;\n\t\tfs_info->pid_gid =")
    outcome = extracted(kernel, fix_of({PROC: edit}))
    names = [name for _, name, _ in changed(outcome)]
    assert names == ["proc_fill_super", "proc_reconfigure"]
    assert not [each.name for each in targets(outcome) if "proc_apply_options" in each.name]
    assert "static void proc_apply_options(" in text(outcome)


def test_a_clone_that_is_left_for_good_is_refused(kernel: Kernel, fix_of: FixOf) -> None:
    """``truncate()`` of minix is not traced, and is the last thing that its callers do."""
    fix = fix_of({MINIX: ("block %ld < 0", "block %ld is less than 0")})
    outcome = pipeline.check([fix], kernel, method=Method.EXTRACT)
    assert outcome.verdict is Verdict.REFUSED
    (reason,) = outcome.reasons
    assert (reason.rule, reason.object) == ("clone-changed", "truncate")
    assert pipeline.check([fix], kernel).verdict is Verdict.PATCHABLE


def test_a_function_whose_static_is_a_macro_is_declared(kernel: Kernel, fix_of: FixOf) -> None:
    """``STATIC`` of XFS stands for ``static noinline``, and a comment behind the parameters."""
    call = "\treturn xfs_generic_create(mnt_userns, dir, dentry, mode, 0, NULL);\n"
    outcome = extracted(kernel, fix_of({XFS: (call, f"\tmode &= 07777;\n{call}")}))
    assert changed(outcome) == [("xfs", "xfs_vn_create", 1)]
    assert Target("xfs", "xfs_generic_create", 1) in targets(outcome)
    assert "extern int\n\txfs_generic_create(\n" in text(outcome)


def test_a_function_that_a_macro_makes(kernel: Kernel, fix_of: FixOf) -> None:
    """``SYSCALL_DEFINE2(eventfd2, ...)`` becomes three functions; the call is taken whole."""
    old = "SYSCALL_DEFINE2(eventfd2, unsigned int, count, int, flags)\n{\n"
    new = f"{old}\tif (count == 4711)\n\t\treturn -EINVAL;\n"
    outcome = extracted(kernel, fix_of({EVENTFD: (old, new)}))
    names = [name for _, name, _ in changed(outcome)]
    assert "__x64_sys_eventfd2" in names
    assert "SYSCALL_DEFINE2(eventfd2" in text(outcome)
    assert "SYSCALL_DEFINE1(eventfd," not in text(outcome)
    assert text(outcome).count("\n") <= 150


def test_tracepoints_are_those_of_the_kernel(kernel: Kernel, fix_of: FixOf) -> None:
    """kmod.c fires one that kernel/module/main.c defines."""
    edit = (
        "\ttrace_module_request(module_name, wait, _RET_IP_);\n",
        "\ttrace_module_request(module_name, !wait, _RET_IP_);\n",
    )
    outcome = extracted(kernel, fix_of({KMOD: edit}))
    assert changed(outcome) == [(VMLINUX, "__request_module", 1)]
    assert "__tracepoint_module_request" in {each.name for each in targets(outcome)}
    assert "__tracepoint_module_request" not in defined(outcome)


def test_units_share_what_the_fix_adds(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    shared = "void lg_shared(struct seq_file *m);\n"
    body = f'{shared}{shared[:-2]}\n{{\n\tseq_puts(m, "x");\n}}\n\n'
    fix = fix_of(
        {
            VERSION: ("static int version_proc_show", f"{body}static int version_proc_show"),
            CMDLINE: (SHOW, f"{SHOW}\textern {shared}\n\tlg_shared(m);\n"),
        }
    )
    output = tmp_path / "shared.ko"
    built = pipeline.build([fix], kernel, output=output, method=Method.EXTRACT)
    states = {f.target.name: f.state for f in built.outcome.functions}
    assert states == {"cmdline_proc_show": State.CHANGED, "lg_shared": State.NEW}


def test_callbacks_and_what_the_file_declares_itself(kernel: Kernel) -> None:
    """A fix of four files with callbacks, states, and functions that one file gives the others."""
    outcome = extracted(kernel, OBJECTS)
    compared = pipeline.check([OBJECTS], kernel)
    assert outcome.changes is not None
    assert compared.changes is not None
    assert outcome.changes.callbacks == compared.changes.callbacks
    assert outcome.changes.states == compared.changes.states
    assert changed(outcome) == changed(compared)


def test_a_function_that_is_left_may_be_declared_only(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    """What the mark names is looked for in the unit, not in what was cut out of it."""
    note = "\tif (oops_in_progress == 4711)\n\t\tdump_stack();\n"
    heads = ("int test_taint(unsigned flag)\n{\n", "bool oops_may_print(void)\n{\n")
    include = "#include <asm/sections.h>\n"
    mark = "LIVEGRAFT_IGNORE_FUNCTION(oops_may_print);\n"
    edits = [(each, f"{each}{note}") for each in heads]
    edits.append((include, f"{include}#include <livegraft.h>\n\n{mark}"))
    file = review(kernel, fix_of({PANIC: edits}), tmp_path / "review")
    text = file.read_text()
    assert mark in text
    assert "bool oops_may_print(void)\n{" not in text
    outcome = edited(kernel, file, text)
    assert "oops_may_print" not in [name for _, name, _ in changed(outcome)]
    outcome = edited(kernel, file, text.replace(mark, mark.replace("oops_may", "oops_might")))
    assert reasons(outcome) == [("mark-target", "oops_might_print")]


def test_an_edited_folder_is_built_and_the_module_says_so(kernel: Kernel, tmp_path: Path) -> None:
    outcome = pipeline.check([SAMPLE], kernel, method=Method.EXTRACT, why=True)
    folder = tmp_path / "review"
    release, source = str(kernel.release), kernel.source_version
    (name,) = write_folder(folder, release, source, [SAMPLE], outcome.fix.sha256, outcome.extracted)
    assert "| `cmdline_proc_show` | hunk |" in (folder / "README.md").read_text()
    for edited in (False, True):
        if edited:
            file = folder / name
            file.write_text(file.read_text().replace("livegraft.sample=1", "livegraft.sample=2"))
        found = read_folder(folder)
        assert found.edited == ({CMDLINE} if edited else set())
        output = tmp_path / f"edited{edited}.ko"
        built = pipeline.build(
            found.fixes, kernel, output=output, method=Method.EXTRACT, folder=found
        )
        assert built.inspection.manifest["edited"] == ([CMDLINE] if edited else [])
        assert built.inspection.manifest["fix"]["sha256"] == outcome.fix.sha256
        assert (b"livegraft.sample=2" in output.read_bytes()) is edited


def review(kernel: Kernel, fix: Path, folder: Path) -> Path:
    """An extracted live patch of one unit: its C file."""
    outcome = extracted(kernel, fix)
    digest, source = outcome.fix.sha256, kernel.source_version
    (name,) = write_folder(folder, kernel.release, source, [fix], digest, outcome.extracted)
    return folder / name


def edited(kernel: Kernel, file: Path, text: str) -> Outcome:
    """What a folder is to the kernel with another text in it."""
    file.write_text(text)
    found = read_folder(file.parent)
    return pipeline.check(found.fixes, kernel, method=Method.EXTRACT, folder=found)


def reasons(outcome: Outcome) -> list[tuple[str, str]]:
    return [(each.rule, each.object) for each in outcome.reasons]


def test_an_edit_that_replaces_what_is_not_there_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    file = review(kernel, SAMPLE, tmp_path / "review")
    more = "\nstatic void added(void)\n{\n}\nLIVEGRAFT_PATCHES(added);\n"
    assert reasons(edited(kernel, file, file.read_text() + more)) == [("not-extracted", "added")]


def test_an_edit_that_would_not_be_in_force_is_refused(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    """The negative control of the rule; what is said to be replaced is."""
    note = "\tif (oops_in_progress == 4711)\n\t\tdump_stack();\n"
    function = "int test_taint(unsigned flag)\n{\n"
    fix = fix_of({PANIC: (function, f"{function}{note}")})
    file = review(kernel, fix, tmp_path / "review")
    text = file.read_text()
    helper = "\nbool oops_may_print(void)\n{\n\treturn false;\n}\n"
    rule = "edited-beyond"
    outcome = edited(kernel, file, text + helper)
    assert reasons(outcome) == [(rule, "oops_may_print")]
    assert "LIVEGRAFT_PATCHES(oops_may_print)" in outcome.reasons[0].remedy
    mark = "LIVEGRAFT_PATCHES(oops_may_print);\n"
    outcome = edited(kernel, file, text + helper + mark)
    assert [name for _, name, _ in changed(outcome)] == ["oops_may_print", "panic", "test_taint"]
    for variable in ("int panic_on_oops = 717;", "int panic_on_oops __ro_after_init;"):
        outcome = edited(kernel, file, f"{text}\n{variable}\n")
        assert reasons(outcome) == [(rule, "panic_on_oops")]
    assert edited(kernel, file, f"{text}\n/* Seen. */\n").verdict is Verdict.PATCHABLE


def test_a_folder_of_another_fix_or_without_a_unit_is_an_error(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    folder = review(kernel, SAMPLE, tmp_path / "review").parent
    found = read_folder(folder)
    other = fix_of({CMDLINE: (SHOW, f'{SHOW}\tseq_puts(m, "x");\n')})
    with pytest.raises(FixError, match="was extracted from a fix"):
        pipeline.check([other], kernel, method=Method.EXTRACT, folder=found)
    index = json.loads((folder / INDEX).read_text()) | {"files": []}
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(FixError, match=f"has no file for {CMDLINE}"):
        pipeline.check(found.fixes, kernel, method=Method.EXTRACT, folder=read_folder(folder))
