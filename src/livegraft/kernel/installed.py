# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages that are installed on this machine: their files are copied, nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import CommandMissing, KernelError, RunFailed
from livegraft.kernel.packages import FIELDS, Arrived, Package
from livegraft.run import run

_FORMAT = "".join(
    f"{name}: ${{{name}}}\\n" for name in ("db:Status-Abbrev", *FIELDS) if name != "Filename"
)


_WANTED = ("/boot/", "/lib/modules/", "/usr/lib/", "/usr/src/")
"""Where a kernel's packages have what patches are built from. Documentation, which slim systems
leave out (dpkg's path-exclude), is not looked at."""


class Installed:
    """What dpkg has installed here: ``/boot``, ``/lib/modules`` and ``/usr/src``.

    Args:
        root: the system's root folder.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._packages: list[Package] | None = None

    @property
    def label(self) -> str:
        return "the installed packages"

    def names(self, prefix: str) -> list[str]:
        return sorted({p.name for p in self._all() if p.name.startswith(prefix)})

    def lookup(self, names: Iterable[str]) -> list[Package]:
        wanted = set(names)
        return [package for package in self._all() if package.name in wanted]

    def own_files(self, name: str, version: str, cache: Cache) -> Package | None:
        return None  # source packages are not installed

    def fetch(self, packages: Sequence[Package], cache: Cache, arrived: Arrived) -> None:
        """Check that the files are those that the packages brought.

        Raises:
            KernelError: one was changed or is missing.
        """
        for package in packages:
            changed = self._verify(package)
            if changed:
                raise KernelError(
                    str(package),
                    f"{changed[0]} is not as the package brought it",
                    f"apt-get install --reinstall {package.name}",
                )

    def unpack(self, package: Package, cache: Cache, into: Path) -> None:
        listed = run(["dpkg-query", f"--root={self.root}", "--listfiles", package.name]).stdout
        names = listed.splitlines()
        # What has something below it is a folder of the package, also where the system has made a
        # link of it: /lib is one on every merged-/usr system.
        folders = {str(above) for name in names for above in Path(name).parents}
        for name in filter(_is_wanted, names):
            origin = self.root / name.lstrip("/")
            copy = into / name.lstrip("/")
            if name in folders or (origin.is_dir() and not origin.is_symlink()):
                copy.mkdir(parents=True, exist_ok=True)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, copy, follow_symlinks=False)

    def _verify(self, package: Package) -> list[str]:
        """The changed files of a package (dpkg(1), the output of ``--verify``)."""
        try:
            text = run(["dpkg", f"--root={self.root}", "--verify", package.name]).stdout
        except RunFailed as error:
            text = error.output
        names = (line.split()[-1] for line in text.splitlines() if "/" in line)
        return [name for name in names if _is_wanted(name)]

    def _all(self) -> list[Package]:
        if self._packages is None:
            self._packages = list(self._read())
        return self._packages

    def _read(self) -> Iterable[Package]:
        from debian.deb822 import Deb822

        try:
            text = run(
                ["dpkg-query", f"--root={self.root}", "--show", f"--showformat={_FORMAT}\\n"]
            ).stdout
        except CommandMissing:
            return
        # Only those of the kernel are read closely: dpkg knows thousands.
        for paragraph in text.split("\n\n"):
            if "\nPackage: linux-" not in paragraph or "Status-Abbrev: ii" not in paragraph:
                continue
            fields = Deb822(paragraph)
            yield Package.from_control(fields, self, location=str(self.root))


def _is_wanted(name: str) -> bool:
    return name.startswith(_WANTED)
