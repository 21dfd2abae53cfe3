# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as a prepared kernel, and how parts are unpacked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from livegraft.cache import MARKER, Cache
from livegraft.errors import (
    BuildError,
    CacheError,
    ImageError,
    KernelError,
    NotPrepared,
    RunFailed,
    UnknownRelease,
)
from livegraft.kernel.kernel import open_prepared, source_of
from livegraft.kernel.layout import FORMAT
from livegraft.kernel.tree import make_error
from livegraft.kernel.unpack import localise_headers, unpack_source

RELEASE = "6.1.0-55-amd64"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with a kernel that is prepared as far as the cache can tell."""
    cache = Cache(tmp_path / "cache")
    for name in ("image", "headers", "build"):
        cache.tree(f"kernel/{RELEASE}/{name}", lambda path: None)
    cache.tree("source/6.1.192-1", lambda path: None)
    (cache.root / f"kernel/{RELEASE}/image/lib/modules/{RELEASE}").mkdir(parents=True)
    _record(cache)
    return cache


def _record(cache: Cache, **changes: object) -> None:
    record = {
        "format": FORMAT,
        "root": str(cache.root),
        "source_version": "6.1.192-1",
        "compiler": "gcc-12",
    }
    (cache.root / f"kernel/{RELEASE}/kernel.json").write_text(json.dumps(record | changes))


def test_open(cache: Cache) -> None:
    kernel = open_prepared(RELEASE, cache)
    assert kernel.release == RELEASE
    assert kernel.source == cache.root / "source/6.1.192-1"
    assert kernel.headers.parts[-3:] == ("usr", "src", f"linux-headers-{RELEASE}")
    assert kernel.modules.parts[-3:] == ("lib", "modules", RELEASE)
    assert kernel.derived("units") == f"kernel/{RELEASE}/units"
    argv = kernel.make_argv("fs/ext4/mballoc.o")
    assert argv[0] == "make" and argv[-1] == "fs/ext4/mballoc.o"
    assert {f"KERNELRELEASE={RELEASE}", "CC=gcc-12", f"O={kernel.build}"} <= set(argv)


@pytest.mark.parametrize(
    "entry", [f"kernel/{RELEASE}/{stage}" for stage in ("image", "headers", "build")]
)
def test_a_half_made_stage_is_not_prepared(cache: Cache, entry: str) -> None:
    (cache.root / entry / MARKER).unlink()
    with pytest.raises(NotPrepared, match="livegraft prepare"):
        open_prepared(RELEASE, cache)


def test_without_its_source_it_is_not_prepared(cache: Cache) -> None:
    cache.forget("source/6.1.192-1")
    with pytest.raises(NotPrepared):
        open_prepared(RELEASE, cache)


@pytest.mark.parametrize("change", [{"root": "/elsewhere"}, {"format": 0}])
def test_another_place_or_layout_is_not_prepared(cache: Cache, change: dict[str, object]) -> None:
    _record(cache, **change)
    with pytest.raises(NotPrepared):
        open_prepared(RELEASE, cache)


def test_a_damaged_record_is_not_prepared(cache: Cache) -> None:
    (cache.root / f"kernel/{RELEASE}/kernel.json").write_text('{"format": 1, "ro')
    with pytest.raises(NotPrepared):
        open_prepared(RELEASE, cache)


def test_source_of_what_is_there(cache: Cache) -> None:
    assert source_of("6.1.192-1", cache=cache) == cache.root / "source/6.1.192-1"
    assert source_of(RELEASE, cache=cache) == cache.root / "source/6.1.192-1"
    with pytest.raises(UnknownRelease):
        source_of("nonsense", cache=cache)


def test_opening_imports_nothing_heavy(cache: Cache) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from livegraft.cache import Cache; from livegraft.kernel.kernel import open_prepared\n"
        f"cache = Cache(Path({str(cache.root)!r})); began = time.perf_counter()\n"
        f"open_prepared({RELEASE!r}, cache); print(time.perf_counter() - began)\n"
        "print(sorted(m for m in sys.modules if m in ('debian', 'numpy', 'rich', 'jinja2')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    seconds, heavy = output.decode().splitlines()
    assert float(seconds) < 0.02
    assert heavy == "[]"


def _source_archive(folder: Path) -> Path:
    tree = folder / "linux-source-6.1"
    (tree / "fs").mkdir(parents=True)
    (tree / "fs/a.c").write_text("int a;\n")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    archive = folder / "linux-source-6.1.tar.xz"
    argv = ["tar", "-cJf", str(archive), "-C", str(folder), tree.name]
    subprocess.run(argv, check=True)
    return archive


def test_a_source_tree_is_read_only(tmp_path: Path) -> None:
    into, package = tmp_path / "into", tmp_path / "package"
    into.mkdir()
    package.mkdir()
    unpack_source(_source_archive(tmp_path), into, package)
    assert (into / "fs/a.c").read_text() == "int a;\n"
    assert (into / "run.sh").stat().st_mode & 0o777 == 0o555
    for path in (into / "fs", into / "fs/a.c"):
        assert path.stat().st_mode & 0o222 == 0
    assert not package.exists()
    # Nothing of it hinders its removal.
    (into / MARKER).touch()
    Cache(tmp_path).forget("into")
    assert not into.exists()


def test_a_truncated_source_archive(tmp_path: Path) -> None:
    archive = _source_archive(tmp_path)
    os.truncate(archive, archive.stat().st_size - 40)
    (tmp_path / "into").mkdir()
    with pytest.raises(KernelError, match="cannot be unpacked"):
        unpack_source(archive, tmp_path / "into", tmp_path / "package")


def _headers(root: Path) -> Path:
    headers = root / f"usr/src/linux-headers-{RELEASE}"
    (headers / "scripts/mod").mkdir(parents=True)
    (headers / "scripts/mod/modpost").touch()
    (headers / "Module.symvers").touch()
    (headers / "Makefile").write_text("include /usr/src/linux-headers-6.1.0-55-common/Makefile\n")
    common = root / "usr/src/linux-headers-6.1.0-55-common"
    common.mkdir()
    (common / "Makefile").touch()
    modules = root / f"lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(f"/usr/src/linux-headers-{RELEASE}")
    return headers


def test_headers_are_made_local(tmp_path: Path) -> None:
    headers = _headers(tmp_path)
    assert localise_headers(tmp_path, RELEASE) == headers
    common = tmp_path / "usr/src/linux-headers-6.1.0-55-common"
    assert (headers / "Makefile").read_text() == f"include {common}/Makefile\n"
    assert (tmp_path / f"lib/modules/{RELEASE}/build").resolve() == headers


@pytest.mark.parametrize(
    "part",
    [f"linux-headers-{RELEASE}/scripts/mod/modpost", "linux-headers-6.1.0-55-common/Makefile"],
)
def test_headers_without_a_part(tmp_path: Path, part: str) -> None:
    _headers(tmp_path)
    (tmp_path / "usr/src" / part).unlink()
    with pytest.raises(ImageError, match="is missing"):
        localise_headers(tmp_path, RELEASE)


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("/bin/sh: 1: flex: not found\nmake[1]: *** [x] Error 127\n", "apt-get install flex"),
        ("sign-file.c:1: fatal error: openssl/opensslv.h: No such file\n", "libssl-dev"),
        ("elf.h:1: fatal error: gelf.h: No such file or directory\n", "libelf-dev"),
        ("something else\n", "make setup"),
    ],
)
def test_what_a_failed_make_means(output: str, remedy: str) -> None:
    error = make_error(RELEASE, ["prepare"], RunFailed(["make"], 2, output))
    assert isinstance(error, BuildError)
    assert remedy in error.remedy
    assert output.splitlines()[0] in error.problem


def test_a_full_disk_while_making() -> None:
    output = "cc1: fatal error: cannot write: No space left on device\n"
    error = make_error(RELEASE, ["prepare"], RunFailed(["make"], 2, output))
    assert isinstance(error, CacheError)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can trust too much; run as root")
def test_root_does_not_run_what_others_can_write(tmp_path: Path) -> None:
    theirs, shared, own = (tmp_path / name for name in ("theirs", "shared", "own"))
    for folder in (theirs, shared, own):
        folder.mkdir()
    os.chown(theirs, 65534, 65534)
    shared.chmod(0o777)
    for folder in (theirs, shared):
        with pytest.raises(CacheError, match="root would run what is in it"):
            Cache(folder)
    assert Cache(own).root == own
