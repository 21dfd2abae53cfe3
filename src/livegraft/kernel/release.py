# SPDX-License-Identifier: GPL-2.0-or-later
"""The name of a kernel release, and the Debian packages that it stands for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from livegraft.errors import UnknownRelease


class Flavour(StrEnum):
    """Debian's featuresets and flavours for 64-bit PCs (the tail of a release's name)."""

    AMD64 = "amd64"
    CLOUD = "cloud-amd64"
    RT = "rt-amd64"


FEATURESETS: Mapping[Flavour, str] = {Flavour.RT: "rt"}
"""Debian's name for the patches that a flavour has besides those of all others."""

_NAME = re.compile(
    # <series>.<stable or 0>[-<abi> or +deb12, +bpo, ...]-<flavour>, from Debian's kernel packages.
    r"(?P<series>\d+\.\d+)\.\d+(?:-\d[a-z0-9.]*|\+[a-z0-9.]+)*-(?P<flavour>(?:cloud-|rt-)?amd64)"
)
_VERSION = re.compile(r"(?P<series>\d+\.\d+)(?:\.\d+)*-[A-Za-z0-9.+~]+")


@dataclass(frozen=True, slots=True)
class Release:
    """A kernel release as ``uname -r`` prints it.

    Args:
        name: the whole of it, ``6.1.0-55-amd64``.
        series: the stable series, ``6.1``, which Debian's source packages are named after.
        flavour: for which machines it is configured.
    """

    name: str
    series: str
    flavour: Flavour

    @classmethod
    def parse(cls, name: str, known: Iterable[str] = ()) -> Release:
        """Read a release's name.

        Args:
            name: what the user gave, ``6.12.117+deb12-cloud-amd64``.
            known: names of releases that exist, to say which are near.

        Raises:
            UnknownRelease: Debian gives no kernel such a name.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise unknown_release(name, "is no kernel release of Debian for amd64", known)
        return cls(name, match["series"], Flavour(match["flavour"]))

    @staticmethod
    def looks_like(text: str) -> bool:
        """Whether a text is meant as a release, not as a package version."""
        return text.endswith(tuple(f"-{flavour}" for flavour in Flavour))

    def __str__(self) -> str:
        return self.name

    @property
    def abi(self) -> str:
        """The name without the flavour, ``6.1.0-55``: what the flavours of one upload share."""
        return self.name.removesuffix(f"-{self.flavour}")

    @property
    def image_packages(self) -> tuple[str, str]:
        """The packages that hold the image, in order of preference.

        The code of both is the same. Only the unsigned one is built directly from the source
        package whose version is looked for.
        """
        return f"linux-image-{self.name}-unsigned", f"linux-image-{self.name}"

    @property
    def headers_package(self) -> str:
        """The package with ``Module.symvers`` and the makefile for external modules."""
        return f"linux-headers-{self.name}"

    @property
    def featureset(self) -> str:
        """Debian's name for the patches that only this flavour has: ``rt``, or empty."""
        return FEATURESETS.get(self.flavour, "")

    @property
    def source_package(self) -> str:
        """The package with the source tree, Debian's patches applied, those of no featureset."""
        return f"linux-source-{self.series}"


def series_of(version: str) -> str:
    """The stable series of a Debian version: ``6.1`` for ``6.1.192-1``.

    Raises:
        UnknownRelease: it is no version of a Debian kernel.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise unknown_release(version, "is neither a kernel release nor a package version")
    return match["series"]


def unknown_release(name: str, problem: str, known: Iterable[str] = ()) -> UnknownRelease:
    """The error for a release that is not to be had, with the nearest names among `known`."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    remedy = "'livegraft kernels' lists what there is"
    if near:
        remedy = f"did you mean {' or '.join(near)}? {remedy}"
    return UnknownRelease(name, problem, remedy)
