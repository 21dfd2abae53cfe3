# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepare real kernels: their trees fit the shipped images, and no interrupt leaves half of one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache as once
from pathlib import Path

import pytest

from livegraft.cache import Cache
from livegraft.errors import KernelError, NotPrepared
from livegraft.kernel.kernel import Kernel, open_prepared, prepare, source_of
from livegraft.kernel.listing import ListedKernel, list_kernels
from livegraft.kernel.packages import default_source
from livegraft.kernel.release import Flavour, Release
from livegraft.kernel.resolve import resolve
from livegraft.run import run

pytestmark = pytest.mark.build

SERIES = ("6.1", "6.12")
SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"

TRIVIAL = """
#include <linux/module.h>
static int __init begin(void) { return 0; }
module_init(begin);
MODULE_LICENSE("GPL");
"""


@once
def listed() -> tuple[ListedKernel, ...]:
    return tuple(list_kernels(default_source(), Cache()))


def newest(series: str) -> str:
    """A kernel that is prepared, else the newest that can be."""
    own = [
        kernel
        for kernel in listed()
        if kernel.release.startswith(f"{series}.")
        and kernel.flavour is Flavour.AMD64
        and kernel.usable
    ]
    if not own:
        pytest.fail(f"no kernel {series} can be targeted here: apt-get update?")
    return max(own, key=lambda kernel: (kernel.prepared, own.index(kernel))).release


@pytest.fixture(scope="module", params=SERIES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return prepare(newest(request.param))


def vermagic(module: Path) -> str:
    return run(["modinfo", "--field=vermagic", module]).stdout.strip()


def test_the_tree_is_for_the_image(kernel: Kernel) -> None:
    made = (kernel.build / "include/generated/utsrelease.h").read_text()
    assert f'"{kernel.release}"' in made
    assert kernel.config["CONFIG_LIVEPATCH"] == "y"
    assert (kernel.build / "Module.symvers").stat().st_size > 1_000_000
    assert kernel.vmlinuz.is_file()
    assert open_prepared(kernel.release, kernel.cache) == kernel


def test_a_module_builds_against_the_cached_headers(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "trivial.c").write_text(TRIVIAL)
    (tmp_path / "Makefile").write_text("obj-m := trivial.o\n")
    output = run(["make", "-C", kernel.headers, f"M={tmp_path}", "modules"])
    assert "warning: the compiler differs" not in output.stdout + output.stderr
    shipped = next(kernel.modules.rglob("loop.ko*"))
    assert vermagic(tmp_path / "trivial.ko") == vermagic(shipped)


def test_a_unit_compiles_beside_the_source(tmp_path: Path) -> None:
    """In a copy: kbuild makes tools in the tree that livegraft does without. Those of the newest
    series are compiled so in test_kbuild_learn.py."""
    kernel = prepare(newest(SERIES[0]))
    build = tmp_path / "build"
    shutil.copytree(kernel.build, build, symlinks=True)
    argv = kernel.make_argv("lib/ctype.o")
    run([word.replace(str(kernel.build), str(build)) for word in argv])
    assert (build / "lib/ctype.o").is_file()
    assert list(kernel.source.glob("lib/ctype.o")) == []


def test_the_source_is_read_only_and_shared(kernel: Kernel) -> None:
    for path in (kernel.source / "fs", kernel.source / "fs/namei.c"):
        assert path.stat().st_mode & 0o222 == 0
    assert source_of(kernel.source_version, cache=kernel.cache) == kernel.source
    assert source_of(kernel.release, cache=kernel.cache) == kernel.source


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("flavour", Flavour)
def test_every_flavour_resolves(series: str, flavour: Flavour) -> None:
    """Those of the same upload as the kernel under test."""
    own = Release.parse(newest(series))
    release = Release.parse(f"{own.abi}-{flavour}")
    packages = resolve(release, default_source(_packages()), Cache())
    versions = {package.version for package in packages.source.packages}
    assert len(packages.source.packages) == (2 if release.featureset else 1)
    assert versions == {packages.image.version}
    assert packages.image.version == packages.image.version == packages.source_version
    assert [re.sub(r"[\d.]+.*", "", package.name) for package in packages.headers] == [
        "linux-headers-",
        "linux-headers-",
        "linux-kbuild-",
    ]


def _packages() -> Path | None:
    """What was downloaded before."""
    folder = Cache().root / "packages"
    return folder if folder.is_dir() else None


PREPARE = """
import sys
from pathlib import Path
from livegraft.kernel.kernel import prepare
from livegraft.kernel.packages import default_source
from livegraft.progress import Progress

class Telling(Progress):
    def started(self, name, total):
        print("step", name, flush=True)
        return super().started(name, total)

    def note(self, text):
        print("note", text, flush=True)

folder = Path(sys.argv[2]) if sys.argv[2:] else None
prepare(sys.argv[1], source=default_source(folder), progress=Telling())
print("all is done", flush=True)
"""


class Run:
    """A preparation in a process of its own.

    Args:
        release: what to prepare.
        home: the parent of its cache.
    """

    def __init__(self, release: str, home: Path) -> None:
        folder = _packages()
        words = [release, *([str(folder)] if folder else [])]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, *words],
            env=os.environ | {"XDG_CACHE_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, line: str) -> None:
        assert self.process.stdout is not None
        for read in self.process.stdout:
            if read.strip() == line:
                return
        pytest.fail(f"it ended without saying '{line}'")

    def finish(self) -> str:
        return self.process.communicate(timeout=300)[0]


def _running_below(path: Path) -> list[str]:
    """The command lines of programs that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(path) in words and "pytest" not in words:
            found.append(words)
    return found


@pytest.mark.parametrize("step", ["unpack", "configure", "prepare"])
def test_interrupts_and_two_runs_at_once(
    step: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One interrupted run after the other in one cache, and at last two at once."""
    kernel = prepare(newest(SERIES[0]))
    home = Path(tmp_path_factory.getbasetemp()) / "interrupted"
    cache = Cache(home / "livegraft")
    interrupted = Run(kernel.release, home)
    interrupted.wait_for(f"step {step}")
    time.sleep(1.5)
    began = time.monotonic()
    interrupted.process.send_signal(signal.SIGINT)
    output = interrupted.finish()
    assert "KeyboardInterrupt" in output and "all is done" not in output
    assert interrupted.process.returncode != 0
    assert time.monotonic() - began < 10
    assert _running_below(home) == []
    with pytest.raises(NotPrepared):
        open_prepared(kernel.release, cache)
    for stage in ("image", "headers", "build"):
        path = cache.root / f"kernel/{kernel.release}/{stage}"
        assert cache.has(f"kernel/{kernel.release}/{stage}") or not path.exists()
    if step != "prepare":
        return

    first, second = Run(kernel.release, home), Run(kernel.release, home)
    outputs = (first.finish(), second.finish())
    assert all("all is done" in output for output in outputs)
    assert [output.count("step prepare") for output in sorted(outputs)].count(1) == 1
    assert any("waiting for another run" in output for output in outputs)
    again = open_prepared(kernel.release, cache)
    assert dict(again.config) == dict(kernel.config)
    cache.forget(f"source/{kernel.source_version}")
    shutil.rmtree(home)


def test_a_damaged_package_is_named(kernel: Kernel, tmp_path: Path) -> None:
    """A folder's package that is cut off: refused when it is unpacked, and nothing is kept."""
    folder = _packages()
    if folder is None:
        pytest.skip("no downloaded packages here: run with an empty cache")
    debs = tmp_path / "debs"
    debs.mkdir()
    for deb in folder.glob(f"*{kernel.source_version}*.deb"):
        copied = debs / deb.name
        if "linux-image" in deb.name:
            copied.write_bytes(deb.read_bytes()[: deb.stat().st_size // 2])
        else:
            copied.symlink_to(deb)
    cache = Cache(tmp_path / "cache")
    began = time.monotonic()
    with pytest.raises(KernelError, match="cannot be unpacked"):
        prepare(kernel.release, source=default_source(debs), cache=cache)
    assert time.monotonic() - began < 30
    assert not cache.has(f"kernel/{kernel.release}/image")
    assert _running_below(tmp_path) == []


def test_a_filled_cache_needs_no_network(kernel: Kernel, tmp_path: Path) -> None:
    livegraft = ["unshare", "--net", sys.executable, "-m", "livegraft.cli.main"]
    run([*livegraft, "prepare", kernel.release])
    built = tmp_path / "fix.ko"
    run([*livegraft, "build", str(SAMPLE), "-k", kernel.release, "-o", str(built)])
    assert built.stat().st_size > 10_000
