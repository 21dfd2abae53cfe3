# SPDX-License-Identifier: GPL-2.0-or-later
"""The difference between two trees, held against diff(1) and patch(1) where they are at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from livegraft.fix.between import between
from livegraft.fix.fix import Fix

LINES = "".join(f"line {number}\n" for number in range(100))


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """A folder with files in it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    old = tree(
        tmp_path / "old",
        {
            "fs/ext4/a.c": LINES,
            "fs/ext4/same.c": "int same;\n",
            "fs/xfs/b.c": "int b;\n",
            "gone.c": "int gone;\n",
            "net/c.c": "no newline at the end",
            "latin.c": b"/* caf\xe9 */\nint x;\n",
            "logo.bin": b"\0\1\2",
        },
    )
    new = tree(
        tmp_path / "new",
        {
            "fs/ext4/a.c": LINES.replace("line 50\n", "line fifty\n"),
            "fs/ext4/same.c": "int same;\n",
            "fs/xfs/b.c": "int c;\n",
            "fs/xfs/new/file.c": "int new;\n",
            "net/c.c": "still none",
            "latin.c": b"/* caf\xe9 */\nint y;\n",
            "logo.bin": b"\0\1\3",
        },
    )
    return old, new


def test_what_differs_is_named_in_order(trees: tuple[Path, Path]) -> None:
    found = between(*trees)
    assert found.files == (
        "fs/ext4/a.c",
        "fs/xfs/b.c",
        "fs/xfs/new/file.c",
        "gone.c",
        "latin.c",
        "net/c.c",
    )
    assert found.left_out == ("logo.bin",)


def test_the_diff_is_as_diff_makes_it(trees: tuple[Path, Path]) -> None:
    assert between(*trees, ["fs/ext4"]).diff.decode() == (
        "diff -ruN a/fs/ext4/a.c b/fs/ext4/a.c\n"
        "--- a/fs/ext4/a.c\n"
        "+++ b/fs/ext4/a.c\n"
        "@@ -48,7 +48,7 @@\n"
        " line 47\n line 48\n line 49\n-line 50\n+line fifty\n line 51\n line 52\n line 53\n"
    )


def test_new_and_deleted_files(trees: tuple[Path, Path]) -> None:
    text = between(*trees).diff.decode("latin-1")
    assert "--- /dev/null\n+++ b/fs/xfs/new/file.c\n@@ -0,0 +1 @@\n+int new;\n" in text
    assert "--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int gone;\n" in text


def test_the_end_without_a_newline_is_marked(trees: tuple[Path, Path]) -> None:
    text = between(*trees, ["net/*"]).diff.decode()
    assert text.count("\\ No newline at end of file\n") == 2


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        (["fs/*.c"], ("fs/ext4/a.c", "fs/xfs/b.c", "fs/xfs/new/file.c")),
        (["fs/xfs/"], ("fs/xfs/b.c", "fs/xfs/new/file.c")),
        (["./gone.c", "net"], ("gone.c", "net/c.c")),
        (["fs/*/b.c"], ("fs/xfs/b.c",)),
        (["fs/ext"], ()),
        (
            ["*.c"],
            ("fs/ext4/a.c", "fs/xfs/b.c", "fs/xfs/new/file.c", "gone.c", "latin.c", "net/c.c"),
        ),
    ],
)
def test_patterns(trees: tuple[Path, Path], patterns: list[str], files: tuple[str, ...]) -> None:
    assert between(*trees, patterns).files == files


def test_equal_trees_give_nothing(trees: tuple[Path, Path]) -> None:
    old, _ = trees
    found = between(old, old)
    assert (found.diff, found.files, found.left_out) == (b"", (), ())


def test_symbolic_links_are_left_out_by_name(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old", {"a": "1\n"}), tree(tmp_path / "new", {"a": "1\n"})
    (old / "link").symlink_to("a")
    (new / "link").symlink_to("b")
    (old / "same").symlink_to("a")
    (new / "same").symlink_to("a")
    found = between(old, new)
    assert (found.files, found.left_out) == ((), ("link",))


def test_a_new_empty_file_is_left_out_by_name(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old", {}), tree(tmp_path / "new", {"empty": ""})
    found = between(old, new)
    assert (found.diff, found.files, found.left_out) == (b"", (), ("empty",))


def test_a_file_that_becomes_a_folder(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old", {"a": "1\n"}), tree(tmp_path / "new", {"a/b": "2\n"})
    assert set(between(old, new).files) == {"a", "a/b"}


def test_the_fix_reads_it_back(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """What is written here, the other end of the room takes, byte for byte."""
    old, new = trees
    diff = tmp_path / "fix.patch"
    found = between(old, new)
    diff.write_bytes(found.diff)
    made = Fix.load([diff]).apply(old)
    assert set(made) == set(found.files)
    for name, content in made.items():
        path = new / name
        assert content == (path.read_bytes() if path.exists() else None), name


def a_line_each(letters: str) -> list[str]:
    return [f"{each}\n" for each in letters]


CONTENT = st.lists(st.sampled_from(["a\n", "b\n", "\n", "}\n", "\tx;\n"]), max_size=40)


@pytest.mark.skipif(
    shutil.which("patch") is None, reason="patch(1) is missing: apt-get install patch"
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=CONTENT, after=CONTENT, end=st.sampled_from(["", "last"]))
# The common lines at the end, matched anew, left two lines of context: patch(1) took that for the
# end of the file.
@example(before=a_line_each("aaabaa"), after=a_line_each("abaababaa"), end="")
def test_patch_makes_the_new_file_of_it(
    before: list[str], after: list[str], end: str, tmp_path: Path
) -> None:
    for name in ("old", "new"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    old = tree(tmp_path / "old", {"f": "".join(before)} if before else {})
    new = tree(tmp_path / "new", {"f": "".join(after) + end})
    found = between(old, new)
    if not found.files:
        assert "".join(before) == "".join(after) + end
        return
    subprocess.run(["patch", "-p1", "--fuzz=0", "--quiet"], cwd=old, input=found.diff, check=True)
    # An empty new file is one that patch(1) removes: a diff cannot tell the two apart.
    path = old / "f"
    assert (path.read_text() if path.exists() else "") == "".join(after) + end
