# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs as the tools make them, and diffs that are damaged."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from livegraft.errors import DoesNotApply, FixError, NothingChanged
from livegraft.fix.fix import Fix, Overlay, strip_level

BASE = b"".join(b"line %d\n" % number for number in range(1, 41))
FILE = "fs/ext4/mballoc.c"


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tool(cwd: Path, *argv: str) -> bytes:
    """What diff or git prints; both end with 1 when there is a difference."""
    return subprocess.run(argv, cwd=cwd, capture_output=True, check=False).stdout


def load(tmp_path: Path, *texts: bytes) -> Fix:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"{number}.patch")
        paths[-1].write_bytes(text)
    return Fix.load(paths)


TREES = {
    "change": ({FILE: BASE}, {FILE: BASE.replace(b"line 9\n", b"line nine\n")}),
    "two hunks": ({FILE: BASE}, {FILE: BASE.replace(b"line 2\n", b"").replace(b"line 39", b"x")}),
    "new file": ({FILE: BASE}, {FILE: BASE, "fs/ext4/new.c": b"int x;\n"}),
    "deleted file": ({FILE: BASE, "fs/ext4/old.c": BASE}, {FILE: BASE}),
    "no newline before": ({FILE: BASE[:-1]}, {FILE: BASE}),
    "no newline after": ({FILE: BASE}, {FILE: BASE[:-1]}),
    "no newline at all": ({FILE: BASE + b"end"}, {FILE: BASE + b"stop"}),
    "dos line ends": ({FILE: BASE.replace(b"\n", b"\r\n")}, {FILE: b"x\r\n" + BASE}),
    "one dos line": ({FILE: BASE}, {FILE: BASE.replace(b"line 5\n", b"line 5\r\n")}),
    "not utf-8": ({FILE: BASE + b"\xe9\xff\n"}, {FILE: b"\xfe\n" + BASE + b"\xe9\xff\n"}),
    "form feed": (
        {FILE: BASE + b"\x0c\n\x0b\x1c\n"},
        {FILE: b"new\n" + BASE + b"\x0c\n\x0b\x1c\n"},
    ),
    "emptied": ({FILE: BASE, "fs/a.c": b"x\n"}, {FILE: BASE + b"y\n", "fs/a.c": b"z\n"}),
}


@pytest.mark.parametrize("case", TREES)
@pytest.mark.parametrize("command", ["diff -ruN", "diff -U0 -rN", "git diff --no-index", "deep"])
def test_diffs_of_real_tools_apply(tmp_path: Path, case: str, command: str) -> None:
    before, after = TREES[case]
    deep = "src/linux-6.1/" if command == "deep" else ""
    old = write(tmp_path / f"{deep}a", before)
    new = write(tmp_path / f"{deep}b", after)
    argv = "diff -ruN" if deep else command
    diff = tool(tmp_path, *argv.split(), f"{deep}a", f"{deep}b")
    changes = load(tmp_path, diff).apply(old)
    expected: dict[str, bytes | None] = {
        name: after.get(name) for name in before.keys() | after.keys()
    }
    assert changes == {name: c for name, c in expected.items() if c != before.get(name)}
    assert (new / FILE).is_file()


def test_git_renames_follow_the_content(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {FILE: BASE})
    for argv in ("init -q", "add -A", "-c user.name=x -c user.email=x@x commit -qm x"):
        tool(tree, "git", *argv.split())
    (tree / "fs/new").mkdir()
    tool(tree, "git", "mv", FILE, "fs/new/alloc.c")
    (tree / "fs/new/alloc.c").write_bytes(BASE + b"more\n")
    tool(tree, "git", "add", "-A")
    diff = tool(tree, "git", "diff", "-M", "--cached")
    pure = diff[: diff.index(b"\nindex ") + 1]
    tool(tree, "git", "reset", "-q", "--hard")
    assert b"rename from" in diff
    assert load(tmp_path, diff).apply(tree) == {FILE: None, "fs/new/alloc.c": BASE + b"more\n"}
    assert load(tmp_path, pure).apply(tree) == {FILE: None, "fs/new/alloc.c": BASE}


def hunk(*lines: str, at: int = 1, name: str = FILE, prefix: str = "a/") -> bytes:
    old = sum(line[:1] in " -" for line in lines)
    new = sum(line[:1] in " +" for line in lines)
    head = f"--- {prefix}{name}\n+++ {prefix.replace('a', 'b')}{name}\n"
    body = "".join(f"{line}\n" for line in lines)
    return f"{head}@@ -{at},{old} +{at},{new} @@ static int f(void)\n{body}".encode()


CHANGE = hunk(" line 8", "-line 9", "+line nine", " line 10", at=8)


@pytest.mark.parametrize("prefix, level", [("", 0), ("a/", 1), ("x/linux-6.1/", 2), ("./a/", 1)])
def test_the_strip_level_is_found_out(tmp_path: Path, prefix: str, level: int) -> None:
    tree = write(tmp_path / "tree", {FILE: BASE})
    spelled = f"{prefix}fs".encode()
    fix = load(tmp_path, CHANGE.replace(b"a/fs", spelled).replace(b"b/fs", spelled))
    assert strip_level(fix.diffs[0], Overlay(tree)) == level
    assert fix.apply(tree)[FILE] == BASE.replace(b"line 9", b"line nine")


def test_later_diffs_apply_on_top(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {FILE: BASE})
    second = hunk(" line 8", "-line nine", "+line NINE", " line 10", at=8)
    assert load(tmp_path, CHANGE, second).apply(tree)[FILE] == BASE.replace(b"line 9", b"line NINE")
    with pytest.raises(DoesNotApply):
        load(tmp_path, second, CHANGE).apply(tree)


def test_the_digest_keeps_the_inputs_apart(tmp_path: Path) -> None:
    second = hunk(" line 28", "-line 29", "+x", at=28)
    digests = {
        load(tmp_path, CHANGE, second).sha256,
        load(tmp_path, second, CHANGE).sha256,
        load(tmp_path, CHANGE + second).sha256,
    }
    assert len(digests) == 3
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests)


DAMAGED = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "no diff": (b"hello\n", "no change"),
    "no hunks": (b"diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "no change"),
    "cut off": (CHANGE.rsplit(b" line 10", 1)[0], "damaged"),
    "more lines than said": (CHANGE + b"+smuggled in\n", "more lines than its header says"),
    "binary": (
        b"diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n",
        "binary",
    ),
    "git binary": (b"diff --git a/x b/x\nGIT binary patch\nliteral 1\n", "binary"),
    "symlink": (
        b"diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+y\n",
        "symbolic link",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_diffs_are_refused(tmp_path: Path, case: str) -> None:
    text, problem = DAMAGED[case]
    with pytest.raises(FixError, match=problem) as caught:
        load(tmp_path, text)
    assert caught.value.remedy


def test_a_signature_is_no_extra_line(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {FILE: BASE})
    mail = b"From: x\nSubject: y\n\ntext\n---\n fs/x | 2 +-\n\n" + CHANGE + b"-- \n2.39.5\n\n"
    assert load(tmp_path, mail).apply(tree)[FILE] == BASE.replace(b"line 9", b"line nine")


@pytest.mark.parametrize("name", ["../../etc/passwd", "fs/../../x.c"])
def test_paths_out_of_the_tree_are_refused(tmp_path: Path, name: str) -> None:
    tree = write(tmp_path / "a/b/tree", {FILE: BASE})
    write(tmp_path / "a", {"x.c": BASE, "etc/passwd": BASE})
    evil = CHANGE + hunk("-line 1", "+x", name=name, prefix="a/")
    with pytest.raises(FixError):
        load(tmp_path, evil).apply(tree)


def test_missing_input_and_wrong_tree(tmp_path: Path) -> None:
    with pytest.raises(FixError, match="cannot be read"):
        Fix.load([tmp_path / "none.patch"])
    with pytest.raises(FixError, match="none of its files"):
        load(tmp_path, CHANGE).apply(write(tmp_path / "tree", {"other.c": BASE}))


def test_what_cancels_out_changes_nothing(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", {FILE: BASE})
    back = hunk(" line 8", "-line nine", "+line 9", " line 10", at=8)
    with pytest.raises(NothingChanged):
        load(tmp_path, CHANGE, back).apply(tree)
