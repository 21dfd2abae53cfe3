# SPDX-License-Identifier: GPL-2.0-or-later
"""The source tree that a kernel was built from: linux-source, and a featureset's patches on it.

Debian builds its real-time flavours from the tree of all others with the patches of
``debian/patches-rt`` applied by quilt, without fuzz (debian/rules.real, ``source_%``). linux-source
has the former, Debian's own files of the source package hold the latter.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from livegraft.cache import MARKER, Cache
from livegraft.errors import ImageError, RunFailed
from livegraft.kernel.disk import full_disk
from livegraft.kernel.layout import source_entry
from livegraft.kernel.packages import Package
from livegraft.kernel.unpack import unpack_source
from livegraft.run import run

_OUTER = ".package"
"""Packages are unpacked within the tree's folder, so that they go with it after an interrupt."""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """What a source tree is made of.

    Args:
        package: linux-source in the exact version.
        featureset: the name of the featureset, ``rt``; empty for none.
        patches: Debian's own files of the source package, which hold the featureset's patches.
    """

    package: Package
    featureset: str = ""
    patches: Package | None = None

    @property
    def entry(self) -> str:
        """The cache's name of the tree."""
        return source_entry(self.package.version, self.featureset)

    @property
    def packages(self) -> tuple[Package, ...]:
        """All that has to be fetched."""
        return (self.package,) if self.patches is None else (self.package, self.patches)

    def make(self, cache: Cache) -> Path:
        """Make the tree of fetched packages; returns its folder.

        Raises:
            KernelError: a package is damaged.
            ImageError: a package is not what it should be, or a patch does not apply.
            CacheError: the disk is full.
        """
        base = cache.tree(source_entry(self.package.version), lambda path: self._plain(path, cache))
        if self.patches is None:
            return base
        return cache.tree(self.entry, lambda path: self._patched(path, base, cache))

    def _plain(self, path: Path, cache: Cache) -> None:
        """Unpack linux-source: the package first, then the archive within it."""
        outer = path / _OUTER
        outer.mkdir()
        self.package.origin.unpack(self.package, cache, outer)
        archives = list((outer / "usr/src").glob("linux-source-*.tar.*"))
        if len(archives) != 1:
            raise ImageError(str(self.package), f"holds {len(archives)} source archives, not one")
        unpack_source(archives[0], path, outer)

    def _patched(self, path: Path, base: Path, cache: Cache) -> None:
        """The tree with the featureset's patches; files without a change are those of `base`."""
        assert self.patches is not None
        outer = path / _OUTER
        outer.mkdir()
        self.patches.origin.unpack(self.patches, cache, outer)
        series = outer / f"debian/patches-{self.featureset}/series"
        if not series.is_file():
            raise ImageError(str(self.patches), f"has no patches of '{self.featureset}'")
        link_tree(base, path)
        apply_series(series, path)
        shutil.rmtree(outer)
        run(["chmod", "--recursive", "a-w", "--", *path.iterdir()])


def link_tree(base: Path, into: Path) -> None:
    """Make a tree of links to the files of another, with folders that can be written.

    Raises:
        CacheError: the disk is full.
    """
    try:
        run(["cp", "--archive", "--link", "--", *_parts(base), into])
        run(["find", *_parts(into), "-type", "d", "-exec", "chmod", "u+w", "{}", "+"])
    except RunFailed as error:
        raise full_disk(str(into), error.output) or error from error


def apply_series(series: Path, tree: Path) -> None:
    """Apply the patches of a series as Debian does: in order, without fuzz.

    patch(1) writes a changed file anew, so that what was linked to it stays as it was.

    Args:
        series: names of patches, beside it, one a line (quilt(1)).
        tree: the tree, its folders writable.

    Raises:
        ImageError: one does not apply.
        CacheError: the disk is full.
    """
    for line in series.read_text("utf-8").splitlines():
        name = line.partition("#")[0].strip()
        if not name:
            continue
        try:
            run(
                [
                    *("patch", "--strip=1", "--fuzz=0", "--batch", "--forward", "--quiet"),
                    *("--no-backup-if-mismatch", "--read-only=ignore"),
                    *(f"--directory={tree}", f"--input={series.parent / name}"),
                ]
            )
        except RunFailed as error:
            if (full := full_disk(str(tree), error.output)) is not None:
                raise full from error
            raise ImageError(
                str(tree),
                f"{name} does not apply: {error.problem}",
                "fetch it again",
            ) from error


def _parts(tree: Path) -> list[Path]:
    return [path for path in tree.iterdir() if path.name not in (_OUTER, MARKER)]
