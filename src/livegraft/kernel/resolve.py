# SPDX-License-Identifier: GPL-2.0-or-later
"""From a release to the exact packages that it takes to build for it."""

from __future__ import annotations

from dataclasses import dataclass

from livegraft.errors import PackageMissing
from livegraft.kernel.packages import Package, PackageSource, find, missing, pick
from livegraft.kernel.release import Flavour, Release, series_of, unknown_release


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
    source: Package

    @property
    def source_version(self) -> str:
        """The version of the kernel's source package, the same for all but linux-kbuild."""
        return self.image.source_version


def why_no_source(release: Release) -> str:
    """Why no package has the source of a release; empty if one should.

    The real-time flavours are built with patches that only Debian's source package (.dsc) holds:
    with linux-source's tree their configuration cannot even be written down.
    """
    if release.flavour is Flavour.RT:
        return f"{release.source_package} does not hold the real-time patches"
    return ""


def resolve(release: Release, source: PackageSource) -> KernelPackages:
    """Find the packages of a release.

    Args:
        release: the kernel release.
        source: where to look.

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
    return KernelPackages(image, (headers, *_companions(headers, source)), tree)


def image_of(release: Release, source: PackageSource) -> Package | None:
    """The image package of a release, or None."""
    return _image(release, source.lookup(release.image_packages))


def source_package(version_or_release: str, source: PackageSource) -> Package:
    """The package with the source tree of a package version or a release.

    Args:
        version_or_release: ``6.1.192-1`` or ``6.1.0-55-amd64``.
        source: where to look.

    Raises:
        UnknownRelease: it is neither.
        PackageMissing: there is no such package.
    """
    if Release.looks_like(version_or_release):
        return resolve_source(Release.parse(version_or_release), source)
    return find(source, f"linux-source-{series_of(version_or_release)}", version_or_release)


def resolve_source(release: Release, source: PackageSource) -> Package:
    """The package with the source tree that a release was built from."""
    image = image_of(release, source)
    if image is None:
        raise unknown_release(
            release.name, f"there is no linux-image package of this release in {source.label}"
        )
    return find(source, release.source_package, image.source_version)


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
