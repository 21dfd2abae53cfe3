# SPDX-License-Identifier: GPL-2.0-or-later
"""From a release to the exact packages that it takes to build for it."""

from __future__ import annotations

from dataclasses import dataclass

from livegraft.cache import Cache
from livegraft.errors import PackageMissing
from livegraft.kernel.packages import Package, PackageSource, find, missing, pick
from livegraft.kernel.release import Release, series_of, unknown_release
from livegraft.kernel.sourcetree import SourceTree


@dataclass(frozen=True, slots=True)
class KernelPackages:
    """The packages of one kernel release.

    Args:
        image: code, configuration and modules.
        headers: ``Module.symvers`` and the makefile for external modules; its common part; and
            linux-kbuild, the programs that build modules.
        source: the source tree of the image's version.
    """

    image: Package
    headers: tuple[Package, ...]
    source: SourceTree

    @property
    def source_version(self) -> str:
        """The version of the kernel's source package, the same for all but linux-kbuild."""
        return self.image.source_version


def resolve(release: Release, source: PackageSource, cache: Cache) -> KernelPackages:
    """Find the packages of a release.

    Args:
        release: the kernel release.
        source: where to look.
        cache: keeps the lists of source packages.

    Raises:
        UnknownRelease: there is no image of that name.
        PackageMissing: one of the other packages is not there in the version that fits.
    """
    found = source.lookup(
        (*release.image_packages, release.headers_package, release.source_package)
    )
    image = _image(release, found)
    if image is None:
        known = {name.removesuffix("-unsigned") for name in source.names("linux-image-")}
        raise unknown_release(
            release.name,
            f"there is no linux-image package of this release in {source.label}",
            sorted(name.removeprefix("linux-image-") for name in known),
        )
    version = image.source_version
    headers = pick(found, release.headers_package, version)
    if headers is None:
        raise missing(source, release.headers_package, version)
    tree = pick(found, release.source_package, version)
    if tree is None:
        raise missing(source, release.source_package, version)
    whole = SourceTree(tree, release.featureset, _patches(release, image, source, cache))
    return KernelPackages(image, (headers, *_companions(headers, source)), whole)


def _patches(
    release: Release, image: Package, source: PackageSource, cache: Cache
) -> Package | None:
    """What holds the patches that only this flavour is built with; None if it has none.

    linux-source lacks them: they stand in Debian's own files of the source package alone.

    Raises:
        PackageMissing: nobody has them.
    """
    if not release.featureset:
        return None
    name, version = image.source_name, image.source_version
    found = source.own_files(name, version, cache)
    if found is None:
        raise PackageMissing(
            f"source package {name} {version}",
            f"is not in {source.label}; it holds the patches of '{release.featureset}'",
            f"put {name}_{version}.debian.tar.xz into a folder and add '--packages FOLDER'",
        )
    return found


def image_of(release: Release, source: PackageSource) -> Package | None:
    """The image package of a release, or None."""
    return _image(release, source.lookup(release.image_packages))


def resolve_source(version_or_release: str, source: PackageSource, cache: Cache) -> SourceTree:
    """What the source tree of a package version or a release is made of.

    Args:
        version_or_release: ``6.1.192-1`` (no featureset) or ``6.1.0-55-amd64``.
        source: where to look.
        cache: keeps the lists of source packages.

    Raises:
        UnknownRelease: it is neither.
        PackageMissing: there is no such package.
    """
    if not Release.looks_like(version_or_release):
        name = f"linux-source-{series_of(version_or_release)}"
        return SourceTree(find(source, name, version_or_release))
    release = Release.parse(version_or_release)
    image = _image(release, source.lookup(release.image_packages))
    if image is None:
        raise unknown_release(
            release.name, f"there is no linux-image package of this release in {source.label}"
        )
    tree = find(source, release.source_package, image.source_version)
    return SourceTree(tree, release.featureset, _patches(release, image, source, cache))


def _image(release: Release, found: list[Package]) -> Package | None:
    for name in release.image_packages:
        package = pick(found, name)
        if package is not None:
            return package
    return None


def _companions(headers: Package, source: PackageSource) -> tuple[Package, Package]:
    """The common headers and linux-kbuild, as linux-headers-RELEASE depends on them."""
    common, kbuild = (
        _dependency(headers, prefix) for prefix in ("linux-headers-", "linux-kbuild-")
    )
    found = source.lookup((common.name, kbuild.name))
    common_package = pick(found, common.name, common.exact or headers.version)
    if common_package is None:
        raise missing(source, common.name, common.exact or headers.version)
    # The version of the headers if it is there, else the newest that the dependency allows.
    kbuild_package = pick(found, kbuild.name, headers.version) or pick(
        found, kbuild.name, kbuild.exact, at_least=kbuild.at_least
    )
    if kbuild_package is None:
        raise missing(source, kbuild.name, f">= {kbuild.at_least or headers.version}")
    return common_package, kbuild_package


@dataclass(frozen=True, slots=True)
class _Dependency:
    name: str
    exact: str | None
    at_least: str | None


def _dependency(headers: Package, prefix: str) -> _Dependency:
    from debian.deb822 import PkgRelation

    for alternatives in PkgRelation.parse_relations(headers.depends):
        first = alternatives[0]
        if first["name"].startswith(prefix):
            relation, version = first.get("version") or ("", None)
            return _Dependency(
                first["name"],
                version if relation == "=" else None,
                version if relation == ">=" else None,
            )
    raise PackageMissing(str(headers), f"does not depend on a package {prefix}*: {headers.depends}")
