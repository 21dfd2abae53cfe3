# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of releases and versions, as Debian gives them."""

from __future__ import annotations

import pytest

from livegraft.errors import Exit, UnknownRelease
from livegraft.kernel.release import Flavour, Release, series_of


@pytest.mark.parametrize(
    ("name", "series", "flavour", "abi"),
    [
        ("6.1.0-55-amd64", "6.1", Flavour.AMD64, "6.1.0-55"),
        ("6.1.0-55-cloud-amd64", "6.1", Flavour.CLOUD, "6.1.0-55"),
        ("6.1.0-55-rt-amd64", "6.1", Flavour.RT, "6.1.0-55"),
        ("6.12.117+deb12-amd64", "6.12", Flavour.AMD64, "6.12.117+deb12"),
        ("6.12.117+deb12-cloud-amd64", "6.12", Flavour.CLOUD, "6.12.117+deb12"),
        ("6.12.117+deb13-rt-amd64", "6.12", Flavour.RT, "6.12.117+deb13"),
        ("6.12.9+bpo-amd64", "6.12", Flavour.AMD64, "6.12.9+bpo"),
        ("6.1.0-0.deb11.7-amd64", "6.1", Flavour.AMD64, "6.1.0-0.deb11.7"),
    ],
)
def test_parse(name: str, series: str, flavour: Flavour, abi: str) -> None:
    release = Release.parse(name)
    assert (release.name, release.series, release.flavour) == (name, series, flavour)
    assert release.abi == abi
    assert str(release) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "amd64", "6.1.0-55", "6.1.0-55-arm64", "6.1.0-55-amd64-dbg", "6.1-amd64"),
        *("../x-amd64", "6.1.0-55-rt-cloud-amd64", "6.1.0-55-amd64\n"),
    ],
)
def test_no_release(name: str) -> None:
    with pytest.raises(UnknownRelease, match="livegraft kernels") as raised:
        Release.parse(name)
    assert raised.value.exit_code is Exit.FAILED


def test_near_names_are_offered() -> None:
    known = ["6.1.0-55-amd64", "6.12.117+deb12-amd64"]
    with pytest.raises(UnknownRelease, match=r"did you mean 6\.1\.0-55-amd64"):
        Release.parse("6.1.0.55-amd64", known)


def test_packages() -> None:
    release = Release.parse("6.12.117+deb12-cloud-amd64")
    assert release.image_packages == (
        "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
        "linux-image-6.12.117+deb12-cloud-amd64",
    )
    assert release.headers_package == "linux-headers-6.12.117+deb12-cloud-amd64"
    assert release.source_package == "linux-source-6.12"


def test_series_of_a_version() -> None:
    assert series_of("6.1.192-1") == "6.1"
    assert series_of("6.12.117-1~deb12u1") == "6.12"
    for text in ("linux", "6", "6.1.192", "../../x-1"):
        with pytest.raises(UnknownRelease):
            series_of(text)
