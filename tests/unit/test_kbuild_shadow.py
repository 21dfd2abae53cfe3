# SPDX-License-Identifier: GPL-2.0-or-later
"""The changed view of a source tree."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from livegraft.errors import BuildError
from livegraft.kbuild.command import Command
from livegraft.kbuild.compile import _through
from livegraft.kbuild.dependencies import Dependencies, parse_dependencies
from livegraft.kbuild.shadow import Shadow, shadow_of

TREE = ("fs/ext4/mballoc.c", "fs/ext4/ext4.h", "fs/internal.h", "include/linux/a/deep.h", "top.c")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in TREE:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(name)
    return tmp_path / "src"


def listing(root: Path) -> dict[str, str]:
    """Every file below `root`, links followed, with its content."""
    return {
        os.path.relpath(Path(folder, name), root): Path(folder, name).read_text()
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
    }


def test_a_shadow_differs_in_the_changes_alone(source: Path, tmp_path: Path) -> None:
    before = listing(source)
    changes = {"fs/ext4/mballoc.c": b"new", "top.c": None, "lib/new/x.c": b"added"}
    shadow = Shadow(source, changes, tmp_path / "shadow")
    expected = before | {"fs/ext4/mballoc.c": "new", "lib/new/x.c": "added"}
    del expected["top.c"]
    assert listing(shadow.root) == expected
    assert listing(source) == before
    assert (shadow.root / "include").is_symlink()
    assert not (shadow.root / "fs/ext4").is_symlink()


def test_it_is_removed_and_the_source_stays(source: Path) -> None:
    before = listing(source)
    with shadow_of(source, {"top.c": b"x"}) as shadow:
        root = shadow.root
        assert root.is_dir()
    assert not root.exists()
    assert listing(source) == before


@pytest.mark.parametrize("path", ["../x.c", "/etc/passwd", "fs/../../x"])
def test_it_holds_no_path_out_of_the_tree(source: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(BuildError):
        Shadow(source, {path: b""}, tmp_path / "shadow")


def test_a_file_is_no_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        Shadow(source, {"top.c/x.c": b""}, tmp_path / "shadow")


def test_arguments_are_translated(source: Path, tmp_path: Path) -> None:
    shadow = Shadow(source, {"top.c": b""}, tmp_path / "shadow")
    for argument in ("-I{}/include", "-fmacro-prefix-map={}/=", "{}", "{}/top.c"):
        assert shadow.translate(argument.format(source)) == argument.format(shadow.root)
    for argument in ("-O2", "./include", f"-I{source}-other/include"):
        assert shadow.translate(argument) == argument


def test_the_way_past_a_linked_folder_is_seen_and_closed(source: Path, tmp_path: Path) -> None:
    """fs/ext4 is a link if only fs/internal.h is changed: fs/ext4/../internal.h is the old one."""
    shadow = Shadow(source, {"fs/internal.h": b"new"}, tmp_path / "shadow")
    way = shadow.root / "fs/ext4/../internal.h"
    read = Dependencies((str(way),))
    assert Path(way).read_text() == "fs/internal.h"
    assert shadow.escapes(read) == {"fs/internal.h"}
    assert shadow.linked_directories(read) == {"fs/ext4"}
    shadow.make_real("fs/ext4")
    assert Path(way).read_text() == "new"
    assert not shadow.escapes(read)
    assert (shadow.root / "fs/ext4/ext4.h").read_text() == "fs/ext4/ext4.h"


def test_what_was_read_is_looked_up_before_another_compiler_closes_the_way(
    source: Path, tmp_path: Path
) -> None:
    """Afterwards the same path leads to the changed file, which was not read."""
    shadow = Shadow(source, {"fs/internal.h": b"new"}, tmp_path / "shadow")
    way = shadow.root / "fs/ext4/../internal.h"
    other = threading.Thread(target=shadow.make_real, args=("fs/ext4",))

    def attempt() -> tuple[str, Dependencies]:
        text = way.read_text()
        if other.ident is None:
            other.start()
            time.sleep(0.1)
        return text, Dependencies((str(way),))

    command = Command(
        ("gcc", "-c", "fs/super.c"), "fs/super.c", "fs/super.o", "fs/.super.d", "super"
    )
    text, _ = _through(shadow, command, attempt)
    other.join()
    assert text == "new"


def test_dotdot_in_arguments_is_prepared_for(source: Path, tmp_path: Path) -> None:
    shadow = Shadow(source, {"fs/internal.h": b"new"}, tmp_path / "shadow")
    shadow.prepare([f"{source}/fs/ext4/../internal.h"])
    assert (shadow.root / "fs/ext4/../internal.h").read_text() == "new"


def test_dependency_files_are_read_with_their_escapes() -> None:
    text = "x.o: /s/a.c \\\n  /s/with\\ space.h include/b\\#.h \\\n a$$b.h back\\slash.h\n"
    assert parse_dependencies(text, "x").spelled == (
        "/s/a.c",
        "/s/with space.h",
        "include/b#.h",
        "a$b.h",
        "back\\slash.h",
    )
    with pytest.raises(BuildError):
        parse_dependencies("nonsense", "x")


def test_a_shadow_stays_as_it_is_while_a_compiler_reads_it(source: Path, tmp_path: Path) -> None:
    shadow = Shadow(source, {"top.c": b"new"}, tmp_path / "shadow")
    reading, done = threading.Event(), threading.Event()

    def compile_unit() -> bool:
        with shadow.read():
            reading.set()
            return done.wait(0.3)  # long enough for a directory to be made real

    def make_real() -> None:
        reading.wait()
        shadow.make_real("include/linux")
        done.set()

    with ThreadPoolExecutor(3) as pool:
        compiled = pool.submit(compile_unit)
        # Two that want the same at once; one of them finds it done.
        changed = [pool.submit(make_real) for _ in range(2)]
        assert not compiled.result()
        assert [each.result() for each in changed] == [None, None]
    assert not (shadow.root / "include/linux").is_symlink()
    assert listing(shadow.root) == listing(source) | {"top.c": "new"}
