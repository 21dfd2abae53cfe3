# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiling units of a real kernel, from its source and from shadows of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from livegraft.errors import CompileError
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import (
    Variant,
    compile_original,
    compile_unit,
    files_read,
    side_by_side,
)
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import Shadow, shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.run import run

pytestmark = pytest.mark.build

MBALLOC = "fs/ext4/mballoc.c"
VSPRINTF = "lib/vsprintf.c"  # includes "../mm/internal.h"


def command_of(kernel: Kernel, path: str) -> Command:
    (command,) = learn(kernel, units_among(kernel, [path]).values()).values()
    return command


def code(path: Path) -> str:
    """The digest of an object without its debug sections."""
    bare = path.with_suffix(".bare")
    run(["objcopy", "--strip-debug", path, bare])
    return hashlib.sha256(bare.read_bytes()).hexdigest()


def trees(kernel: Kernel) -> dict[str, int]:
    """Every file below the source and build trees' folders that a compile could touch."""
    found = {}
    for root in (kernel.build, kernel.source / "fs/ext4", kernel.source / "lib"):
        for folder, _, names in os.walk(root):
            for name in names:
                found[f"{folder}/{name}"] = Path(folder, name).lstat().st_mtime_ns
    return found


@pytest.mark.parametrize("path", [MBALLOC, "kernel/fork.c", "net/ipv4/tcp_input.c"])
def test_leaving_out_debug_information_changes_no_code(
    newest_kernel: Kernel, path: str, tmp_path: Path
) -> None:
    command = command_of(newest_kernel, path)
    assert "-g" in {word[:2] for word in command.argv}
    flags = Variant.SECTIONS.flags
    assert "-g0" in flags
    compile_one = partial(compile_unit, newest_kernel, command)
    with_debug, without, with_types = side_by_side(
        [
            partial(compile_one, output=tmp_path / "a/x.o", extra_flags=flags[:-1]),
            partial(compile_one, output=tmp_path / "b/x.o", extra_flags=flags),
            partial(compile_one, output=tmp_path / "c/x.o", extra_flags=Variant.TYPES.flags),
        ]
    )
    assert code(with_debug.path) == code(without.path) == code(with_types.path)
    assert without.path.stat().st_size < with_debug.path.stat().st_size


def test_a_shadow_compiles_to_the_same_bytes(kernel: Kernel, tmp_path: Path) -> None:
    """A comment at the end is no change: nothing of the shadow's place is in the object."""
    command = command_of(kernel, MBALLOC)
    original = compile_original(kernel, command, Variant.SECTIONS)
    text = (kernel.source / MBALLOC).read_bytes()
    with shadow_of(kernel.source, {MBALLOC: text + b"/* end */\n"}) as shadow:
        same = compile_unit(
            kernel,
            command,
            output=tmp_path / "same.o",
            shadow=shadow,
            extra_flags=Variant.SECTIONS.flags,
        )
        assert str(shadow.root).encode() not in same.path.read_bytes()
    assert same.path.read_bytes() == original.path.read_bytes()
    assert same.dependencies == original.dependencies
    assert MBALLOC in same.dependencies
    with shadow_of(kernel.source, {MBALLOC: text + b"int livegraft_x = 1;\n"}) as shadow:
        other = compile_unit(
            kernel,
            command,
            output=tmp_path / "other.o",
            shadow=shadow,
            extra_flags=Variant.SECTIONS.flags,
        )
    assert other.path.read_bytes() != original.path.read_bytes()


def test_compiling_leaves_the_kernels_trees_alone(kernel: Kernel, tmp_path: Path) -> None:
    command = command_of(kernel, MBALLOC)
    before = trees(kernel)
    compile_unit(kernel, command, output=tmp_path / "x.o")
    with shadow_of(kernel.source, {MBALLOC: b"int x;\n"}) as shadow:
        compile_unit(kernel, command, output=tmp_path / "y.o", shadow=shadow)
    assert trees(kernel) == before


def test_a_header_reached_through_dotdot_is_the_changed_one(kernel: Kernel, tmp_path: Path) -> None:
    header = "mm/internal.h"
    command = command_of(kernel, VSPRINTF)
    text = (kernel.source / header).read_bytes()
    with shadow_of(kernel.source, {header: text + b"\nextern int livegraft_seen;\n"}) as shadow:
        # The control: lib/ is a link, so that the compiler walks past the shadow.
        assert Path(shadow.root, "lib", "..", header).read_bytes() == text
        assert not shadow.escapes(files_read(kernel, command, shadow))
        assert Path(shadow.root, "lib", "..", header).read_bytes() != text
    with shadow_of(kernel.source, {header: text + b"\nextern int livegraft_seen;\n"}) as shadow:
        done = compile_unit(kernel, command, output=tmp_path / "x.o", shadow=shadow)
        assert header in done.dependencies
        assert not shadow.escapes(files_read(kernel, command, shadow))
    with (
        shadow_of(kernel.source, {header: text + b"\n#error seen\n"}) as shadow,
        pytest.raises(CompileError, match=r"mm/internal\.h"),
    ):
        compile_unit(kernel, command, output=tmp_path / "x.o", shadow=shadow)


def test_a_unit_that_is_spelled_with_dotdot_is_the_changed_one(
    kernel: Kernel, tmp_path: Path
) -> None:
    path = "virt/kvm/irqchip.c"
    command = command_of(kernel, path)
    assert "/../" in command.source
    with (
        shadow_of(kernel.source, {path: b"#error seen\n"}) as shadow,
        pytest.raises(CompileError, match="seen"),
    ):
        compile_unit(kernel, command, output=tmp_path / "x.o", shadow=shadow)


def test_a_changed_header_of_the_whole_kernel_is_read(kernel: Kernel, tmp_path: Path) -> None:
    header = "include/linux/fs.h"
    text = (kernel.source / header).read_bytes()
    with shadow_of(kernel.source, {header: text + b"\n"}) as shadow:
        read = files_read(kernel, command_of(kernel, MBALLOC), shadow)
        assert not shadow.escapes(read)
        assert f"{shadow.root}/{header}" in read.spelled


def test_what_does_not_compile_is_told_by_file_and_line(kernel: Kernel, tmp_path: Path) -> None:
    command = command_of(kernel, MBALLOC)
    lines = (kernel.source / MBALLOC).read_text().splitlines(keepends=True)
    at = next(
        n for n, line in enumerate(lines) if line.startswith("static inline int mb_test_bit(")
    )
    lines.insert(at, "static int livegraft(void) { return undeclared; }\n")
    with (
        shadow_of(kernel.source, {MBALLOC: "".join(lines).encode()}) as shadow,
        pytest.raises(CompileError) as caught,
    ):
        compile_unit(kernel, command, output=tmp_path / "x.o", shadow=shadow)
    error = caught.value
    assert error.subject == f"{MBALLOC}:{at + 1}"
    assert "undeclared" in error.problem
    assert "^" in error.problem
    assert str(shadow.root) not in str(error) and str(kernel.source) not in str(error)


def test_missing_headers_are_told_by_preprocessing_too(kernel: Kernel) -> None:
    with (
        shadow_of(kernel.source, {MBALLOC: b'#include "none.h"\n'}) as shadow,
        pytest.raises(CompileError, match=r"none\.h"),
    ):
        files_read(kernel, command_of(kernel, MBALLOC), shadow)


def test_originals_are_compiled_once(kernel: Kernel) -> None:
    command = command_of(kernel, MBALLOC)
    first = compile_original(kernel, command, Variant.PLAIN)
    stamp = first.path.stat().st_mtime_ns
    started = time.monotonic()
    again = compile_original(kernel, command, Variant.PLAIN)
    assert time.monotonic() - started < 1
    assert again == first
    assert again.path.stat().st_mtime_ns == stamp
    # The control: what was read is not what is there now.
    (first.path.parent / "read.json").write_text('{"files": [], "sha256": "other"}')
    assert compile_original(kernel, command, Variant.PLAIN).path.stat().st_mtime_ns != stamp


def test_preprocessing_reads_what_compiling_reads(any_kernel: Kernel) -> None:
    command = command_of(any_kernel, MBALLOC)
    read = files_read(any_kernel, command).within(any_kernel.source)
    assert read == compile_original(any_kernel, command, Variant.SECTIONS).dependencies


def test_a_shadow_is_made_in_milliseconds(kernel: Kernel, tmp_path: Path) -> None:
    seconds = []
    for number in range(3):  # the folders have to be in memory
        started = time.monotonic()
        shadow = tmp_path / f"shadow{number}"
        Shadow(kernel.source, {MBALLOC: b"", "include/linux/fs.h": b""}, shadow)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1


def test_the_first_error_is_raised_and_the_others_end() -> None:
    ended: list[bool] = []

    def fail(number: int) -> None:
        raise ValueError(number)

    def work() -> None:
        time.sleep(0.05)
        ended.append(True)

    tasks: list[Callable[[], None]] = [partial(fail, 1), work, partial(fail, 2)]
    with pytest.raises(ValueError, match="1"):
        side_by_side(tasks, workers=2)
    assert ended == [True]
