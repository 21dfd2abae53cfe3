# SPDX-License-Identifier: GPL-2.0-or-later
"""The source tree of a featureset: linux-source and Debian's patches, in real packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.unit.test_kernel_packages import OLD, RELEASE, make_deb, make_release

from livegraft.cache import Cache
from livegraft.errors import ImageError, KernelError, PackageMissing
from livegraft.kernel.folder import Folder
from livegraft.kernel.kernel import source_of
from livegraft.kernel.release import Release
from livegraft.kernel.resolve import resolve
from livegraft.kernel.sourcelists import as_source_entries

RT = Release.parse("6.1.0-55-rt-amd64")

PLAIN = "one\ntwo\nthree\nfour\nfive\nsix\n"
FIRST = "--- a/kernel/a.c\n+++ b/kernel/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
SECOND = """\
--- a/kernel/a.c
+++ b/kernel/a.c
@@ -1,3 +1,3 @@
 one
-2
+two again
 three
--- /dev/null
+++ b/kernel/new/rt.c
@@ -0,0 +1 @@
+real time
--- a/gone.c
+++ /dev/null
@@ -1 +0,0 @@
-gone
"""


def make_tar(path: Path, files: dict[str, str]) -> None:
    """A compressed tar file of small text files."""
    tree = path.parent / f"tree-{path.name}"
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    names = sorted({name.partition("/")[0] for name in files})
    argv = ["tar", "--create", "--xz", f"--file={path}", f"--directory={tree}", *names]
    subprocess.run(argv, check=True)
    subprocess.run(["rm", "-r", tree], check=True)


def make_own_files(folder: Path, version: str = OLD, second: str = SECOND) -> Path:
    """The ``.debian.tar.xz`` of a source package, under a name that says nothing."""
    path = folder / "any.debian.tar.xz"
    files = {
        "debian/changelog": f"linux ({version}) bookworm; urgency=medium\n\n  * x\n",
        "debian/patches-rt/series": "# in this order\nb/first.patch\n\na-second.patch # last\n",
        "debian/patches-rt/b/first.patch": FIRST,
        "debian/patches-rt/a-second.patch": second,
    }
    make_tar(path, files)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "debs"
    path.mkdir()
    inner = path / "linux-source-6.1.tar.xz"
    tree = {"kernel/a.c": PLAIN, "kernel/b.c": "left alone\n", "gone.c": "gone\n"}
    make_tar(inner, {f"linux-source-6.1/{name}": text for name, text in tree.items()})
    # make_deb takes text alone.
    deb = path / "tree"
    (deb / "DEBIAN").mkdir(parents=True)
    (deb / "usr/src").mkdir(parents=True)
    inner.rename(deb / "usr/src/linux-source-6.1.tar.xz")
    control = {
        "Package": "linux-source-6.1",
        "Version": OLD,
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@example.org>",
        "Description": "test",
    }
    (deb / "DEBIAN/control").write_text("".join(f"{k}: {v}\n" for k, v in control.items()))
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(deb), str(path)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run(["rm", "-r", deb], check=True)
    for release in (RT, RELEASE):
        make_release(path, release.name, OLD)
    make_deb(path, "linux-headers-6.1.0-55-common", OLD)
    make_deb(path, "linux-kbuild-6.1", OLD)
    return path


def read_tree(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): path.read_text()
        for path in tree.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_the_patches_are_applied_in_order_and_the_plain_tree_stays(
    folder: Path, tmp_path: Path
) -> None:
    make_own_files(folder)
    cache = Cache(tmp_path / "cache")
    plain = source_of(RELEASE.name, source=Folder(folder), cache=cache)
    before = read_tree(plain)
    tree = source_of(RT.name, source=Folder(folder), cache=cache)
    assert tree == cache.root / f"source/{OLD}-rt"
    assert read_tree(tree) == {
        "kernel/a.c": PLAIN.replace("two", "two again"),
        "kernel/b.c": "left alone\n",
        "kernel/new/rt.c": "real time\n",
    }
    assert read_tree(plain) == before == source_files()
    assert all(not path.stat().st_mode & 0o222 for path in tree.rglob("[!.]*"))
    # What no patch touches takes no room.
    assert (tree / "kernel/b.c").samefile(plain / "kernel/b.c")


def source_files() -> dict[str, str]:
    return {"kernel/a.c": PLAIN, "kernel/b.c": "left alone\n", "gone.c": "gone\n"}


def test_a_patch_that_fits_nearly_is_not_taken(folder: Path, tmp_path: Path) -> None:
    make_own_files(folder, second=SECOND.replace(" three\n", " 3\n"))
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ImageError, match=r"a-second\.patch does not apply"):
        source_of(RT.name, source=Folder(folder), cache=cache)
    assert not cache.has(f"source/{OLD}-rt")
    assert read_tree(cache.root / f"source/{OLD}") == source_files()


def test_patches_of_another_version_are_not_taken(folder: Path) -> None:
    make_own_files(folder, version="6.1.187-1")
    with pytest.raises(PackageMissing) as raised:
        resolve(RT, Folder(folder), Cache())
    assert raised.value.subject == f"source package linux {OLD}"
    assert f"linux_{OLD}.debian.tar.xz" in raised.value.remedy


def test_other_flavours_need_no_patches(folder: Path) -> None:
    assert resolve(RELEASE, Folder(folder), Cache()).source.patches is None


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_damaged_archive_is_said(folder: Path, tmp_path: Path, kept: float) -> None:
    path = make_own_files(folder)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    cache = Cache(tmp_path / "cache")
    with pytest.raises(KernelError, match=r"any\.debian\.tar\.xz"):
        source_of(RT.name, source=Folder(folder), cache=cache)
    assert not cache.has(f"source/{OLD}-rt")


def test_an_archive_without_the_featureset(folder: Path, tmp_path: Path) -> None:
    make_tar(folder / "x.debian.tar.xz", {"debian/changelog": f"linux ({OLD}) x; urgency=low\n"})
    with pytest.raises(ImageError, match="no patches of 'rt'"):
        source_of(RT.name, source=Folder(folder), cache=Cache(tmp_path / "cache"))


def test_apt_is_asked_for_source_packages_of_the_same_archives() -> None:
    one_line = """\
# deb http://old.example/ x main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://a.example/debian bookworm main
 deb	http://b.example/debian bookworm main
deb-src http://a.example/debian bookworm main
"""
    assert as_source_entries("x.list", one_line) == (
        "deb-src [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] "
        "http://a.example/debian bookworm main\n"
        "deb-src	http://b.example/debian bookworm main\n"
    )
    stanzas = "Types: deb\nURIs: http://a.example\n\nTypes: deb deb-src\nURIs: http://b.example\n"
    assert as_source_entries("x.sources", stanzas) == (
        "Types: deb-src\nURIs: http://a.example\n\nTypes: deb-src\nURIs: http://b.example\n"
    )
