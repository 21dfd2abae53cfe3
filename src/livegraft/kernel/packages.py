# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages and where they may come from.

A :class:`PackageSource` is the archive through apt, a folder of ``.deb`` files, or what is
installed on this machine. :class:`Chain` asks several in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from livegraft.cache import Cache
from livegraft.errors import PackageMissing

Arrived = Callable[[int], None]
"""Is told of each number of bytes that have arrived."""

FIELDS = (
    *("Package", "Version", "Architecture", "Source", "Built-Using"),
    *("Depends", "Filename", "Size"),
)
"""The control fields (deb-control(5)) that :class:`Package` is made of."""


SOURCE = "source"
"""Debian's name for the architecture of a source package."""


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a binary package, or Debian's own files of a source package.

    Args:
        name: ``linux-image-6.1.0-55-amd64-unsigned``.
        version: Debian's version of it, exact.
        architecture: ``amd64``, ``all``, or :data:`SOURCE`.
        source_name: the kernel's source package that it was built from: ``linux-6.12``. The
            signed images are built from a source package of their own and name the kernel's in
            ``Built-Using``.
        source_version: its version.
        depends: the field as it stands.
        size: bytes to download; 0 if it is here already.
        location: where the source keeps it: a path within the archive, or a file.
        origin: the source that has it.
    """

    name: str
    version: str
    architecture: str
    source_name: str
    source_version: str
    depends: str
    size: int
    location: str
    origin: PackageSource = field(compare=False, repr=False)

    @classmethod
    def from_control(
        cls, fields: Mapping[str, str], origin: PackageSource, location: str | None = None
    ) -> Package:
        """The package of a control paragraph.

        Args:
            fields: its fields (deb-control(5)).
            origin: the source that has it.
            location: the file, if it is not in the field ``Filename`` of an archive's index.
        """
        source_name, source_version = _source(fields)
        return cls(
            name=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            source_name=source_name,
            source_version=source_version,
            depends=fields.get("Depends", ""),
            size=int(fields.get("Size", "0")) if location is None else 0,
            location=fields.get("Filename", "") if location is None else location,
            origin=origin,
        )

    @classmethod
    def of_source(
        cls, name: str, version: str, origin: PackageSource, location: str, size: int = 0
    ) -> Package:
        """Debian's own files of a source package (``linux_6.1.187-1.debian.tar.xz``)."""
        return cls(name, version, SOURCE, name, version, "", size, location, origin)

    def __str__(self) -> str:
        return f"{'source package ' * self.is_source}{self.name} {self.version}"

    @property
    def is_source(self) -> bool:
        """Whether it is a part of a source package, not a ``.deb`` file."""
        return self.architecture == SOURCE

    @property
    def file_name(self) -> str:
        """``NAME_VERSION_ARCHITECTURE.deb``, a colon in the version as apt writes it."""
        if self.is_source:
            return self.location.rpartition("/")[2]
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


class PackageSource(Protocol):
    """A place that packages come from. None needs root, and none installs anything."""

    @property
    def label(self) -> str:
        """What it is, for errors: ``the archive (through apt)``."""

    def names(self, prefix: str) -> list[str]:
        """The names of its packages that begin with `prefix`."""

    def lookup(self, names: Iterable[str]) -> list[Package]:
        """Every version that it has of each of `names`; a name that it lacks is left out."""

    def own_files(self, name: str, version: str, cache: Cache) -> Package | None:
        """Debian's own files of a source package in exactly this version, if it has them."""

    def fetch(self, packages: Sequence[Package], cache: Cache, arrived: Arrived) -> None:
        """Bring packages that it has to this machine, whole and verified.

        Raises:
            PackageMissing: the place no longer has one.
            NoNetwork: there is no way to the place.
            CacheError: the disk is full.
        """

    def unpack(self, package: Package, cache: Cache, into: Path) -> None:
        """Write the files of a fetched package below the folder `into`.

        Raises:
            KernelError: the package is damaged.
            CacheError: the disk is full.
        """


@dataclass(frozen=True, slots=True)
class Chain:
    """Several sources in order; a package found in an earlier one is taken from there."""

    sources: Sequence[PackageSource]

    @property
    def label(self) -> str:
        return ", ".join(source.label for source in self.sources)

    def names(self, prefix: str) -> list[str]:
        return sorted({name for source in self.sources for name in source.names(prefix)})

    def lookup(self, names: Iterable[str]) -> list[Package]:
        wanted = list(names)
        found: dict[tuple[str, str], Package] = {}
        for source in self.sources:
            for package in source.lookup(wanted):
                found.setdefault((package.name, package.version), package)
        return list(found.values())

    def own_files(self, name: str, version: str, cache: Cache) -> Package | None:
        found = (source.own_files(name, version, cache) for source in self.sources)
        return next((package for package in found if package is not None), None)

    def fetch(self, packages: Sequence[Package], cache: Cache, arrived: Arrived) -> None:
        for source in self.sources:
            own = [package for package in packages if package.origin is source]
            if own:
                source.fetch(own, cache, arrived)

    def unpack(self, package: Package, cache: Cache, into: Path) -> None:
        package.origin.unpack(package, cache, into)


def default_source(folder: Path | None = None) -> PackageSource:
    """Where packages come from: `folder` if given, then what is installed, then the archive.

    Args:
        folder: a folder of ``.deb`` files (``--packages``), for versions the archive has dropped.
    """
    from livegraft.kernel.apt import Apt
    from livegraft.kernel.folder import Folder
    from livegraft.kernel.installed import Installed

    own: list[PackageSource] = [Folder(folder)] if folder is not None else []
    return Chain((*own, Installed(), Apt()))


def find(
    source: PackageSource, name: str, version: str | None = None, *, at_least: str | None = None
) -> Package:
    """One version of a package.

    Args:
        source: where to look.
        name: the package.
        version: exactly this version; by default the newest that there is.
        at_least: no older version than this.

    Raises:
        PackageMissing: there is none.
    """
    package = pick(source.lookup([name]), name, version, at_least=at_least)
    if package is None:
        raise missing(source, name, version or (f">= {at_least}" if at_least else ""))
    return package


def pick(
    packages: Iterable[Package],
    name: str,
    version: str | None = None,
    *,
    at_least: str | None = None,
) -> Package | None:
    """The newest of `packages` that has the name and fits the versions of :func:`find`."""
    from debian.debian_support import Version

    fitting = [
        package
        for package in packages
        if package.name == name
        and version in (None, package.version)
        and (at_least is None or Version(package.version) >= Version(at_least))
    ]
    return max(fitting, key=lambda package: Version(package.version), default=None)


def missing(source: PackageSource, name: str, version: str) -> PackageMissing:
    """The error for a package that no source has in that version."""
    return PackageMissing(
        f"{name} {version}".strip(),
        f"is not in {source.label}",
        "run 'apt-get update'; the archive drops old versions after a while: "
        "then put the .deb files from a snapshot of it into a folder and add '--packages FOLDER'",
    )


def _source(fields: Mapping[str, str]) -> tuple[str, str]:
    """The name and version of the source package that a package was built from."""
    for built in fields.get("Built-Using", "").split(","):
        name, _, relation = built.strip().partition(" ")
        if name == "linux" or name.startswith("linux-"):
            return name, relation.strip("()= ")
    name, parenthesis, version = fields.get("Source", fields["Package"]).partition("(")
    return name.strip(), version.rstrip(") ") if parenthesis else fields["Version"]
