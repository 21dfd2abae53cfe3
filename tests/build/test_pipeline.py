# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole way from a fix to a live patch, on a real kernel with the real compiler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from livegraft import pipeline
from livegraft.changeset import VMLINUX, State, Target
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.errors import NothingChanged, PackageMissing, ProofFailed
from livegraft.fix.between import between
from livegraft.fix.fix import Fix
from livegraft.kernel.kernel import Kernel, prepare, source_of
from livegraft.kernel.modulefile import find_module
from livegraft.module.inspect import inspect_module
from livegraft.pipeline import Outcome, Verdict
from livegraft.runtime.payload import Payload

pytestmark = pytest.mark.build

FixOf = Callable[[dict[str, tuple[str, str] | str]], Path]

ROOT = Path(__file__).parents[2]
EXT4_FIX = ROOT / "tests/data/ext4-mballoc.patch"
SAMPLE = ROOT / "demo/sample.patch"
BROKEN = "6.1.0-55-amd64"

CMDLINE = "fs/proc/cmdline.c"
UPTIME = "fs/proc/uptime.c"
MBALLOC = "fs/ext4/mballoc.c"
NETFS = "fs/netfs/objects.c"
MINIX = "fs/minix/itree_v2.c"

MARK = ("\tseq_putc(m, '\\n');\n", "\tseq_puts(m, \" livegraft\");\n\tseq_putc(m, '\\n');\n")
"""A change of cmdline_proc_show()."""


@pytest.fixture(scope="module")
def broken(kernel: Kernel) -> Kernel:
    """The kernel that has the bug in ext4."""
    return kernel if kernel.release == BROKEN else prepare(BROKEN)


def functions(outcome: Outcome) -> list[tuple[str, str, int, State]]:
    """Object, name, sympos and state of each function."""
    return sorted(
        (each.target.object, each.target.name, each.target.sympos, each.state)
        for each in outcome.functions
    )


def pieces(outcome: Outcome) -> list[ElfObject]:
    assert outcome.changes is not None
    return [elf.parse(piece.data, piece.unit) for piece in outcome.changes.pieces]


def targets(outcome: Outcome) -> set[Target]:
    """What the pieces refer to in the running kernel."""
    assert outcome.changes is not None
    return {each.target for piece in outcome.changes.pieces for each in piece.references}


# -- the fixes of the demo ------------------------------------------------------------------------


def test_the_stored_fix_is_the_difference_of_the_two_sources() -> None:
    """In two folders; the demo takes that of the whole sources."""
    try:
        before, after = source_of("6.1.192-1"), source_of("6.1.192-2")
    except PackageMissing as error:
        pytest.skip(f"{error.subject}: the archive has dropped it, and the cache lacks it")
    difference = between(before, after, ["fs/*.[ch]", "include/*"])
    assert difference.files == (MBALLOC,)
    assert difference.diff == EXT4_FIX.read_bytes()


@pytest.fixture(scope="module")
def ext4(broken: Kernel, tmp_path_factory: pytest.TempPathFactory) -> pipeline.Built:
    output = tmp_path_factory.mktemp("first") / "ext4.ko"
    return pipeline.build([EXT4_FIX], broken, output=output)


def test_the_ext4_fix_changes_the_two_functions(ext4: pipeline.Built) -> None:
    assert functions(ext4.outcome) == [
        ("ext4", "ext4_mb_init_group", 1, State.CHANGED),
        ("ext4", "ext4_mb_load_buddy_gfp", 1, State.CHANGED),
    ]
    (caution,) = ext4.outcome.warnings
    assert "ext4 can be unloaded but not loaded again on this kernel" in caution
    assert {each.target.name for each in ext4.inspection.redirections} == {
        "ext4_mb_init_group",
        "ext4_mb_load_buddy_gfp",
    }
    # The rest of ext4 is referred to and not copied.
    assert Target("ext4", "ext4_mb_init_cache", 1) in targets(ext4.outcome)
    assert ext4.inspection.relocations["ext4"] > 0
    assert ext4.inspection.vermagic.startswith(f"{BROKEN} ")
    assert ext4.inspection.manifest["proof"] is True


def test_the_same_fix_gives_the_same_bytes(
    ext4: pipeline.Built, broken: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere: another output folder, working folder, fix file, temporary folder."""
    temporary = tmp_path / "another/temporary/folder"
    temporary.mkdir(parents=True)
    fix = Path(shutil.copy(EXT4_FIX, tmp_path / "ext4.patch"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    again = pipeline.build([fix], broken, output=Path("ext4.ko"))
    assert again.path.read_bytes() == ext4.path.read_bytes()
    assert list(temporary.iterdir()) == []


def test_the_module_is_small_and_says_nothing_of_this_machine(
    ext4: pipeline.Built, broken: Kernel
) -> None:
    obj = elf.read(ext4.path)
    names = [section.name for section in obj.sections]
    assert not [name for name in names if "debug" in name or name in (".comment", ".BTF")]
    assert ext4.size == ext4.path.stat().st_size < 40_000
    data = ext4.path.read_bytes()
    for place in (broken.cache.root, broken.source, broken.build, Path.home(), ROOT, "/tmp"):
        assert f"{place}/".encode() not in data
    assert b"livegraft-units" not in data


def test_the_sample_fix_on_each_series(any_kernel: Kernel) -> None:
    outcome = pipeline.check([SAMPLE], any_kernel)
    assert functions(outcome) == [(VMLINUX, "cmdline_proc_show", 1, State.CHANGED)]
    assert (outcome.verdict, outcome.warnings) == (Verdict.PATCHABLE, ())


# -- what kinds of change become --------------------------------------------------------------


def test_other_line_numbers_are_no_change(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    """mballoc.c has BUG_ON and WARN_ON, which hold line numbers."""
    first = (kernel.source / MBALLOC).read_text().splitlines(keepends=True)[0]
    fix = fix_of({MBALLOC: (first, f"{first}\n\n\n")})
    outcome = pipeline.check([fix], kernel)
    assert (outcome.verdict, functions(outcome)) == (Verdict.UNCHANGED, [])
    with pytest.raises(NothingChanged):
        pipeline.build([fix], kernel, output=tmp_path / "none.ko")
    assert list(tmp_path.iterdir()) == []


def test_a_comment_is_no_change(kernel: Kernel, fix_of: FixOf) -> None:
    outcome = pipeline.check([fix_of({CMDLINE: "/* the end */\n"})], kernel)
    assert outcome.verdict is Verdict.UNCHANGED


def test_several_files_and_several_diffs_are_one_fix(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    """Of different levels, and vmlinux together with a module."""
    minix = ("block_to_path: block %ld < 0", "block_to_path: block %ld is < 0")
    both = fix_of({CMDLINE: MARK, MINIX: minix})
    other = fix_of({UPTIME: ("idle_nsec = 0;", "idle_nsec = NSEC_PER_SEC;")})
    bare = tmp_path / "bare.patch"  # "diff -p0"
    bare.write_text(other.read_text().replace("--- a/", "--- ").replace("+++ b/", "+++ "))
    built = pipeline.build([both, bare], kernel, output=tmp_path / "both.ko")
    assert [each[:2] for each in functions(built.outcome)] == [
        ("minix", "block_to_path.isra.0"),
        (VMLINUX, "cmdline_proc_show"),
        (VMLINUX, "uptime_proc_show"),
    ]
    document: Any = built.inspection.as_json()
    assert [each["name"] for each in document["objects"]] == [VMLINUX, "minix"]
    assert built.outcome.fix.sha256 != Fix.load([bare, both]).sha256


def test_a_second_diff_goes_on_where_the_first_has_ended(
    kernel: Kernel, fix_of: FixOf, tmp_path: Path
) -> None:
    first = fix_of({CMDLINE: MARK})
    second = tmp_path / "second.patch"
    second.write_text(
        f"--- a/{CMDLINE}\n+++ b/{CMDLINE}\n@@ -10,1 +10,1 @@\n"
        '-\tseq_puts(m, " livegraft");\n+\tseq_puts(m, " second");\n'
    )
    (piece,) = pieces(pipeline.check([first, second], kernel))
    data = b"".join(section.data for section in piece.sections)
    assert b" second\0" in data
    assert b" livegraft\0" not in data


def test_a_new_function_and_a_new_variable(kernel: Kernel, fix_of: FixOf) -> None:
    show = "static int cmdline_proc_show(struct seq_file *m, void *v)\n{\n"
    new = (
        "static int livegraft_calls = 7;\n\n"
        "static noinline void livegraft_count(struct seq_file *m)\n{\n"
        '\tseq_printf(m, "%d ", livegraft_calls++);\n}\n\n'
    )
    outcome = pipeline.check(
        [fix_of({CMDLINE: (show, f"{new}{show}\tlivegraft_count(m);\n")})], kernel
    )
    assert functions(outcome) == [
        (VMLINUX, "cmdline_proc_show", 1, State.CHANGED),
        (VMLINUX, "livegraft_count", 0, State.NEW),
    ]
    (warning,) = outcome.warnings
    assert warning.startswith("livegraft_calls: a new variable")
    (piece,) = pieces(outcome)
    names = {symbol.name for symbol in piece.symbols if symbol.in_section}
    assert {"livegraft_calls", "livegraft_count"} <= names


def test_a_string_alone(kernel: Kernel, fix_of: FixOf) -> None:
    outcome = pipeline.check(
        [fix_of({UPTIME: ('"%lu.%02lu %lu.%02lu\\n"', '"%lu.%02lu / %lu.%02lu\\n"')})], kernel
    )
    assert functions(outcome) == [(VMLINUX, "uptime_proc_show", 1, State.CHANGED)]


COUNT = ("\trreq->debug_id\t= atomic_inc_return(&debug_ids);", "\tstatic atomic_t debug_ids;\n")


@pytest.mark.parametrize("numbered_anew", [False, True])
def test_a_static_local_keeps_its_state(numbered_anew: bool, kernel: Kernel, fix_of: FixOf) -> None:
    """``debug_ids.0`` of netfs, also where another static variable takes its number."""
    old, declared = COUNT
    new = old.replace("inc_return(&debug_ids)", "add_return(2, &debug_ids)")
    edits: dict[str, tuple[str, str] | str] = {NETFS: (old, new)}
    fixes = [fix_of(edits)]
    if numbered_anew:
        calls = "\tstatic atomic_t livegraft_calls;\n"
        fixes = [fix_of({NETFS: (declared, f"{calls}{declared}\tatomic_inc(&livegraft_calls);\n")})]
    outcome = pipeline.check(fixes, kernel)
    assert functions(outcome) == [("netfs", "netfs_alloc_request", 1, State.CHANGED)]
    assert Target("netfs", "debug_ids.0", 1) in targets(outcome)
    (piece,) = pieces(outcome)
    assert not [s.name for s in piece.symbols if s.in_section and s.name.startswith("debug_ids")]
    warnings = [text for text in outcome.warnings if "not loaded again on this" not in text]
    assert [warning.partition(":")[0] for warning in warnings] == (
        ["livegraft_calls.1"] if numbered_anew else []
    )


def test_a_cold_part_comes_with_its_function(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    """The message of block_to_path.isra.0 is in its cold part, and there are two such functions.

    The manifest says of each function whether the kernel's has one.
    """
    fix = fix_of({MINIX: ("block %ld < 0", "block %ld is less than 0"), CMDLINE: MARK})
    built = pipeline.build([fix], kernel, output=tmp_path / "cold.ko")
    assert functions(built.outcome) == [
        ("minix", "block_to_path.isra.0", 2, State.CHANGED),
        (VMLINUX, "cmdline_proc_show", 1, State.CHANGED),
    ]
    piece = next(
        names
        for each in pieces(built.outcome)
        if ".text.block_to_path.isra.0" in (names := {section.name for section in each.sections})
    )
    assert ".text.block_to_path.isra.0.cold" in piece
    assert Payload.read(built.path).cold == frozenset({("minix", "block_to_path.isra.0")})


# -- the proof ------------------------------------------------------------------------------------


def test_leaving_out_the_proof_is_told(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    fix = fix_of({CMDLINE: MARK})
    built = pipeline.build([fix], kernel, output=tmp_path / "unproved.ko", proof=False)
    assert inspect_module(built.path).manifest["proof"] is False
    assert any("--no-proof" in warning for warning in built.outcome.warnings)
    document: Any = built.inspection.as_json()
    assert any("--no-proof" in warning for warning in document["warnings"])
    assert functions(built.outcome) == [(VMLINUX, "cmdline_proc_show", 1, State.CHANGED)]


def flipped(kernel: Kernel, module: str, function: str, folder: Path) -> Kernel:
    """The kernel with another module: one bit of a function's code is another."""
    shipped = find_module(kernel, module)
    obj = elf.read(shipped)
    symbol = next(each for each in obj.symbols if each.name == function)
    section = obj.sections[symbol.section]
    fields: set[int] = set()
    for start in section.relocations["offset"].tolist():
        fields.update(range(start, start + 8))
    at = next(n for n in range(symbol.value + 12, symbol.value + symbol.size) if n not in fields)
    data = bytearray(shipped.read_bytes())
    place = data.index(section.data) + at
    data[place] ^= 1
    copied = folder / shipped.relative_to(kernel.modules)
    copied.parent.mkdir(parents=True)
    copied.write_bytes(data)
    return replace(kernel, modules=folder)


def test_shipped_code_that_differs_stops_the_build(kernel: Kernel, tmp_path: Path) -> None:
    """One bit of a function that the fix does not even touch."""
    other = flipped(kernel, "ext4", "ext4_mb_mark_diskspace_used", tmp_path / "modules")
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(ProofFailed) as failed:
        pipeline.build([EXT4_FIX], other, output=output / "ext4.ko")
    assert list(failed.value.differing) == ["ext4_mb_mark_diskspace_used"]
    assert failed.value.subject == MBALLOC
    assert "--no-proof" in failed.value.remedy
    assert list(output.iterdir()) == []


def test_units_of_one_fix_share_what_it_adds(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    """A new global function of one unit that another calls: an ordinary symbol of the module."""
    fix = fix_of(
        {
            "fs/proc/version.c": (
                "static int version_proc_show",
                "void lg_shared(struct seq_file *m);\nint lg_count;\n"
                "void lg_shared(struct seq_file *m)\n"
                '{\n\tseq_printf(m, "%d ", ++lg_count);\n}\n\n'
                "static int version_proc_show",
            ),
            "fs/proc/cmdline.c": (
                "\tseq_puts(m, saved_command_line);",
                "\textern void lg_shared(struct seq_file *m);\n\n\tlg_shared(m);\n"
                "\tseq_puts(m, saved_command_line);",
            ),
        }
    )
    built = pipeline.build([fix], kernel, output=tmp_path / "shared.ko")
    states = {f.target.name: f.state for f in built.outcome.functions}
    assert states == {"cmdline_proc_show": State.CHANGED, "lg_shared": State.NEW}
    needed = {each.target.name for each in built.inspection.references}
    needed |= set(built.inspection.imports)
    assert "seq_printf" in needed
    assert not {"lg_shared", "lg_count"} & needed
