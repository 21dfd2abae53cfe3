# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernels can be targeted from this machine, and why others cannot."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import LivegraftError, NotPrepared, Refused, UnknownRelease
from livegraft.kernel.compiler import find_compiler
from livegraft.kernel.config import Config, check_usable
from livegraft.kernel.kernel import open_prepared
from livegraft.kernel.layout import Stage, entry
from livegraft.kernel.packages import Package, PackageSource, pick
from livegraft.kernel.release import Flavour, Release

_COMPILER = re.compile(r"\b(?:linux-compiler-)?(gcc-\d+)\b")
"""The compiler that linux-headers-RELEASE depends on: gcc-12, or linux-compiler-gcc-12-x86."""

_PREFIX = "linux-image-"


@dataclass(frozen=True, slots=True)
class ListedKernel:
    """A kernel release, and whether it can be targeted.

    Args:
        release: its release.
        source_version: Debian's version of its source package.
        flavour: for which machines it is configured.
        prepared: whether the cache has it ready.
        why_not: why it cannot be targeted; empty if it can, as far as is known before it is
            prepared.
    """

    release: str
    source_version: str
    flavour: Flavour
    prepared: bool
    why_not: str

    @property
    def usable(self) -> bool:
        """Whether it can be targeted."""
        return not self.why_not

    def as_json(self) -> dict[str, object]:
        """The kernel as it stands in the document of ``livegraft kernels``."""
        return {
            "release": self.release,
            "source_version": self.source_version,
            "flavour": str(self.flavour),
            "prepared": self.prepared,
            "usable": self.usable,
            "why_not": self.why_not or None,
        }


def list_kernels(source: PackageSource, cache: Cache) -> list[ListedKernel]:
    """Every kernel that a source of packages has or that is prepared, the newest last.

    Args:
        source: where packages come from; it is asked twice, whatever it has.
        cache: where prepared kernels are.
    """
    releases = sorted(set(_named(source)) | set(_prepared(cache)), key=lambda release: release.name)
    found = _Found.of(source.lookup(_package_names(releases)))
    listed = [
        kernel for release in releases if (kernel := _listed(release, found, cache)) is not None
    ]
    return sorted(listed, key=lambda kernel: (_sortable(kernel.source_version), kernel.release))


@dataclass(frozen=True, slots=True)
class _Found:
    """Packages by name."""

    by_name: dict[str, list[Package]]

    @classmethod
    def of(cls, packages: Iterable[Package]) -> _Found:
        by_name: dict[str, list[Package]] = {}
        for package in packages:
            by_name.setdefault(package.name, []).append(package)
        return cls(by_name)

    def pick(self, name: str, version: str | None = None) -> Package | None:
        return pick(self.by_name.get(name, ()), name, version)


def _named(source: PackageSource) -> Iterable[Release]:
    for name in source.names(_PREFIX):
        try:
            yield Release.parse(name.removeprefix(_PREFIX).removesuffix("-unsigned"))
        except UnknownRelease:
            # A metapackage (linux-image-amd64), a debug package, a kernel of another machine.
            continue


def _prepared(cache: Cache) -> Iterable[Release]:
    for path in (cache.root / "kernel").glob("*"):
        if cache.has(entry(path.name, Stage.BUILD)):
            yield Release.parse(path.name)


def _package_names(releases: Iterable[Release]) -> list[str]:
    names: dict[str, None] = {}
    for release in releases:
        wanted = (*release.image_packages, release.headers_package, release.source_package)
        names |= dict.fromkeys(wanted)
    return list(names)


def _listed(release: Release, found: _Found, cache: Cache) -> ListedKernel | None:
    try:
        kernel = open_prepared(release, cache)
    except NotPrepared:
        pass
    else:
        why = _why_config_not(release.name, kernel.config)
        return ListedKernel(release.name, kernel.source_version, release.flavour, True, why)
    images = (found.pick(name) for name in release.image_packages)
    image = next((package for package in images if package is not None), None)
    if image is None:
        # Only named by others (Conflicts, Replaces): no source has it.
        return None
    version = image.source_version
    listed = ListedKernel(release.name, version, release.flavour, False, "")
    return replace(listed, why_not=_why_not(release, version, found, cache))


def _why_not(release: Release, version: str, found: _Found, cache: Cache) -> str:
    """The first thing in the way of a kernel that is not prepared; empty if none is known."""
    headers = found.pick(release.headers_package, version)
    for package, name in (
        (found.pick(release.source_package, version), release.source_package),
        (headers, release.headers_package),
    ):
        if package is None:
            return f"{name} {version} is in no source of packages"
    for config in _known_configs(release, cache):
        return _why_config_not(release.name, Config.read(config))
    assert headers is not None
    compiler = _COMPILER.search(headers.depends)
    if compiler and shutil.which(compiler[1]) is None:
        return f"needs {compiler[1]}, which is not installed"
    return ""


def _known_configs(release: Release, cache: Cache) -> list[Path]:
    name = f"boot/config-{release.name}"
    candidates = (cache.root / entry(release.name, Stage.IMAGE) / name, Path("/") / name)
    return [path for path in candidates if path.is_file()]


def _why_config_not(release: str, config: Config) -> str:
    try:
        check_usable(release, config)
        find_compiler(release, config)
    except Refused as error:
        return f"{error.reasons[0].object} {error.reasons[0].message}"
    except LivegraftError as error:
        return error.problem
    return ""


def _sortable(version: str) -> tuple[object, ...]:
    """A key that orders kernel versions well enough for a list: 6.1.187-1 before 6.12.1-1."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
