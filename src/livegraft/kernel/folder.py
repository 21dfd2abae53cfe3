# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages from a folder of files, for versions that the archive has dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import KernelError, RunFailed, UsageError
from livegraft.kernel.packages import FIELDS, Arrived, Package
from livegraft.kernel.unpack import own_files_of, unpack
from livegraft.run import run


class Folder:
    """A folder of ``.deb`` files, and of ``.debian.tar.xz`` files of source packages.

    What a file holds is read from it, not from its name.

    Args:
        path: the folder.

    Raises:
        UsageError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(str(path), "is no folder", "give a folder of .deb files")
        self.path = path.absolute()
        self._packages: list[Package] | None = None

    @property
    def label(self) -> str:
        return f"the folder {self.path}"

    def names(self, prefix: str) -> list[str]:
        return sorted({p.name for p in self._all() if p.name.startswith(prefix)})

    def lookup(self, names: Iterable[str]) -> list[Package]:
        wanted = set(names)
        return [package for package in self._all() if package.name in wanted]

    def own_files(self, name: str, version: str, cache: Cache) -> Package | None:
        for path in sorted(self.path.glob("*.debian.tar.*")):
            if own_files_of(path) == (name, version):
                return Package.of_source(name, version, self, str(path))
        return None

    def fetch(self, packages: Sequence[Package], cache: Cache, arrived: Arrived) -> None:
        """Nothing to do: they are here."""

    def unpack(self, package: Package, cache: Cache, into: Path) -> None:
        unpack(package, Path(package.location), into)

    def _all(self) -> list[Package]:
        if self._packages is None:
            self._packages = [self._read(path) for path in sorted(self.path.glob("*.deb"))]
        return self._packages

    def _read(self, path: Path) -> Package:
        from debian.deb822 import Deb822

        try:
            text = run(["dpkg-deb", "--field", path, *FIELDS]).stdout
        except RunFailed as error:
            raise KernelError(
                str(path), f"is no whole Debian package ({error.problem})", "fetch it again"
            ) from error
        return Package.from_control(Deb822(text), self, location=str(path))
