# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison on real units of real kernels, and payloads of all their code.

A payload of every function of a unit has nearly all that units have: tables, alternatives, jump
labels, cold parts, per-CPU variables. The kernel's own objtool has to find no fault in it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compare_pairs import Running

from livegraft.compare import sections
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.compare.cut import cut
from livegraft.compare.entity import Entity
from livegraft.compare.inclusion import include
from livegraft.elf import object as elf
from livegraft.elf.arch.x86_64_decode import decode
from livegraft.elf.writer import write
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.verdict.judge import judge

pytestmark = pytest.mark.build

UNITS = (
    "arch/x86/kvm/vmx/vmx.c",
    "fs/ext4/mballoc.c",
    "fs/ext4/namei.c",
    "kernel/fork.c",
    "kernel/sched/core.c",
    "mm/page_alloc.c",
    "net/core/dev.c",
)

OBJTOOL = {
    "6.1": ("--hacks=jump_label", "--hacks=noinstr", "--orc", "--retpoline", "--rethunk", "--sls"),
    "6.12": (
        *("--hacks=jump_label", "--hacks=noinstr", "--hacks=skylake", "--ibt", "--prefix=16"),
        *("--orc", "--retpoline", "--rethunk", "--sls", "--link"),
    ),
}
"""Arguments that kbuild gives it in Debian's configurations, but for those of all series."""


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest) -> str:
    """Each unit in turn."""
    return str(request.param)


def original(kernel: Kernel, path: str) -> Path:
    """The unit as it is, with a section for each function."""
    (built,) = units_among(kernel, [path]).values()
    (command,) = learn(kernel, [built]).values()
    return compile_original(kernel, command, Variant.SECTIONS).path


def test_a_unit_equals_itself(newest_kernel: Kernel, unit: str) -> None:
    path = original(newest_kernel, unit)
    document = judge(compare_objects(elf.read(path), elf.read(path))).as_json()
    assert document.pop("verdict") == "unchanged"
    assert not any(document.values())


def test_other_line_numbers_change_nothing(
    newest_kernel: Kernel, unit: str, tmp_path: Path
) -> None:
    (built,) = units_among(newest_kernel, [unit]).values()
    (command,) = learn(newest_kernel, [built]).values()
    before = elf.read(original(newest_kernel, unit))
    text = (newest_kernel.source / unit).read_bytes()
    with shadow_of(newest_kernel.source, {unit: b"\n" * 7 + text}) as shadow:
        output = tmp_path / "moved.o"
        flags = Variant.SECTIONS.flags
        compile_unit(newest_kernel, command, output=output, shadow=shadow, extra_flags=flags)
    document = judge(compare_objects(before, elf.read(output))).as_json()
    assert document.pop("verdict") == "unchanged"
    assert not any(document.values())


def exported(kernel: Kernel) -> tuple[str, ...]:
    """What the kernel and its modules export."""
    lines = (kernel.build / "Module.symvers").read_text("utf-8").splitlines()
    return tuple(line.split("\t")[1] for line in lines)


def everything(path: Path) -> Comparison:
    """A comparison that takes all functions that ftrace knows for changed."""
    facts = compare_objects(elf.read(path), elf.read(path))
    taken = tuple(traced(facts))
    included = include(facts.patched, taken, (), facts.pairs)
    return facts._replace(changed_entities=taken, inclusion=included)


def traced(comparison: Comparison) -> Iterator[Entity]:
    view = comparison.patched
    for function in view.functions():
        is_initial = sections.is_initial(view.section(function).name)
        entries = {entry.name for entry in function.entries}
        is_traced = not entries.isdisjoint(view.arch.ftrace_tables)
        if function.parent is None and not is_initial and is_traced:
            yield function


def run_objtool(kernel: Kernel, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The distribution's own; from 6.12 on a wrapper chooses it by the architecture."""
    return subprocess.run(
        [kernel.headers / "tools/objtool/objtool", *arguments],
        env={**os.environ, "SRCARCH": "x86"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_objtool_finds_no_fault_in_a_payload_of_all_functions(
    newest_kernel: Kernel, unit: str, tmp_path: Path
) -> None:
    comparison = judge(everything(original(newest_kernel, unit)))
    # 6.12 patches constants into built-in code at boot; a payload would keep the placeholder.
    # Functions of mm/page_alloc.c that are __ref call these two, which are __init.
    known = {
        ("unknown-section", "__do_sys_clone3"),
        ("init-reference", "build_all_zonelists_init"),
        ("init-reference", "deferred_grow_zone"),
    }
    assert {(reason.rule, reason.object) for reason in comparison.reasons} <= known
    assert len(comparison.inclusion.changed) > 20
    running = Running(exported=exported(newest_kernel))
    made = cut(comparison._replace(judgement=()), unit, "vmlinux", running)
    piece = tmp_path / "piece.o"
    piece.write_bytes(made.piece.data)
    series = ".".join(newest_kernel.release.split(".")[:2])
    arguments = (*OBJTOOL[series], "--static-call", "--uaccess", "--module")
    done = run_objtool(newest_kernel, *arguments, piece)
    # A fix that changes the exit function of a module is refused: here all functions are taken.
    told = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not line.endswith("cleanup_module(): not an indirect call target")
    ]
    assert (done.returncode, told) == (0, [])
    after = elf.read(piece)
    assert after.section_number(".orc_unwind") is not None


def test_objtool_would_find_a_fault(kernel: Kernel, tmp_path: Path) -> None:
    """The negative control: a payload without the table that its jump labels need."""
    comparison = judge(everything(original(kernel, "kernel/fork.c")))
    made = cut(comparison, "kernel/fork.c", "vmlinux", Running(exported=exported(kernel)))
    obj = elf.parse(made.piece.data)
    number = obj.section_number("__jump_table")
    assert number is not None
    table = obj.sections[number]
    table.relocations = table.relocations[:0]
    table.data, table.size = b"", 0
    piece = tmp_path / "piece.o"
    piece.write_bytes(write(obj))
    done = run_objtool(kernel, *OBJTOOL["6.1"], "--module", piece)
    assert "warning" in done.stdout + done.stderr


LINE = re.compile(r"^\s*([0-9a-f]+):\t")


def test_instructions_end_where_objdump_says(newest_kernel: Kernel, unit: str) -> None:
    path = original(newest_kernel, unit)
    command = ["objdump", "-d", "-w", "--no-show-raw-insn"]
    text = subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout
    said: list[list[int]] = []
    for line in text.splitlines():
        if line.startswith("Disassembly of section "):
            said.append([])
        elif found := LINE.match(line):
            said[-1].append(int(found[1], 16))
    codes = [
        section.data for section in elf.read(path).sections if section.is_code and section.data
    ]
    assert "(bad)" not in text, "this objdump does not know one of the instructions"
    assert sum(map(len, said)) > 2000
    assert [[each.offset for each in decode(code)] for code in codes] == said
