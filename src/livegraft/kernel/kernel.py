# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel to make live patches for: prepared once, opened in milliseconds from then on."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import NotPrepared
from livegraft.kernel.compiler import find_compiler
from livegraft.kernel.config import Config
from livegraft.kernel.layout import FORMAT, RECORD, Stage, entry, modules_below, source_entry
from livegraft.kernel.packages import PackageSource
from livegraft.kernel.release import Release
from livegraft.kernel.tree import BuildTree
from livegraft.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Kernel:
    """A prepared kernel.

    Args:
        release: its release, as ``uname -r`` prints it.
        source_version: Debian's version of its source package.
        source: the source tree, read-only.
        build: the ``O=`` build tree, prepared, with ``Module.symvers``.
        headers: the folder for ``make -C`` of external modules.
        vmlinuz: the image as shipped.
        modules: ``lib/modules/RELEASE`` as shipped.
        compiler: kbuild's ``CC``.
        cache: where all of it lies.
    """

    release: str
    source_version: str
    source: Path
    build: Path
    headers: Path
    vmlinuz: Path
    modules: Path
    compiler: str
    cache: Cache

    @property
    def config(self) -> Config:
        """The configuration that the build tree has: the shipped one, keys and salt apart."""
        return _config(self.build / ".config")

    def derived(self, name: str) -> str:
        """The cache's name for something that is made from this kernel alone."""
        return entry(self.release, name)

    def make_argv(self, *args: str) -> list[str]:
        """The command that makes something in the build tree."""
        return BuildTree(self.release, self.source, self.build, self.compiler).make_argv(*args)


def open_prepared(release: Release | str, cache: Cache) -> Kernel:
    """A kernel that was prepared before; asks nobody and starts no program.

    Raises:
        UnknownRelease: Debian gives no kernel such a name.
        NotPrepared: it has to be prepared first, or the cache was moved since.
    """
    release = Release.parse(release) if isinstance(release, str) else release
    name = release.name
    try:
        record = json.loads((cache.root / entry(name, RECORD)).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        record = {}
    tree = source_entry(str(record.get("source_version")), release.featureset)
    stages = (tree, *(entry(name, stage) for stage in Stage))
    # Build trees and headers hold absolute paths: a cache that was moved is not usable.
    whole = record.get("format") == FORMAT and record.get("root") == str(cache.root)
    if not whole or not all(map(cache.has, stages)):
        raise NotPrepared(name, "is not prepared", f"run 'livegraft prepare {name}'")
    image = cache.root / entry(name, Stage.IMAGE)
    return Kernel(
        release=name,
        source_version=record["source_version"],
        source=cache.root / tree,
        build=cache.root / entry(name, Stage.BUILD),
        headers=cache.root / entry(name, Stage.HEADERS) / f"usr/src/linux-headers-{name}",
        vmlinuz=image / f"boot/vmlinuz-{name}",
        modules=modules_below(image, name),
        compiler=record["compiler"],
        cache=cache,
    )


def prepare(
    release: Release | str,
    *,
    source: PackageSource | None = None,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Kernel:
    """Make a kernel ready for building live patches; does at once what was done before.

    Args:
        release: the kernel release, ``6.1.0-55-amd64``.
        source: where packages come from; by default this machine and the archive.
        cache: where everything is kept.
        progress: gets the steps ``download`` (bytes), ``unpack``, ``configure`` and ``prepare``.

    Raises:
        UnknownRelease, PackageMissing, NoNetwork: the packages are not to be had.
        Refused: the kernel cannot be patched live, or its configuration not be reproduced.
        WrongCompiler: the compiler that built it is not installed.
        BuildError: its build system failed.
        CacheError: the disk is full.
    """
    release = Release.parse(release) if isinstance(release, str) else release
    cache = cache or Cache()
    with suppress(NotPrepared):
        kernel = open_prepared(release, cache)
        # The compiler may have been upgraded since.
        find_compiler(kernel.release, kernel.config)
        return kernel
    from livegraft.kernel.preparation import make

    make(release, source, cache, progress)
    return open_prepared(release, cache)


def source_of(
    version_or_release: str,
    *,
    source: PackageSource | None = None,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Path:
    """The unpacked, read-only source tree of a package version or of a release.

    Args:
        version_or_release: ``6.1.192-1`` or ``6.1.0-55-amd64``.
        source: where packages come from; by default this machine and the archive.
        cache: where it is kept.
        progress: gets the steps ``download`` (bytes) and ``unpack``.

    Raises:
        UnknownRelease, PackageMissing, NoNetwork, KernelError: it is not to be had.
        CacheError: the disk is full.
    """
    cache = cache or Cache()
    if Release.looks_like(version_or_release):
        with suppress(NotPrepared):
            return open_prepared(version_or_release, cache).source
    elif cache.has(source_entry(version_or_release)):
        return cache.root / source_entry(version_or_release)
    from livegraft.kernel.preparation import make_source

    return make_source(version_or_release, source, cache, progress)


@lru_cache(maxsize=4)
def _config(path: Path) -> Config:
    return Config.read(path)
