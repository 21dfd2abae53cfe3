# SPDX-License-Identifier: GPL-2.0-or-later
"""Downloads through apt, for real: a small package, cut off, damaged, and without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from livegraft.cache import Cache
from livegraft.errors import CacheError, NoNetwork, PackageMissing
from livegraft.kernel.apt import Apt
from livegraft.kernel.packages import Package, find

pytestmark = pytest.mark.build

NAME = "linux-kbuild-6.1"


@pytest.fixture(scope="module")
def package() -> Package:
    return find(Apt(), NAME)


def place(package: Package, cache: Cache) -> Path:
    return cache.root / "packages" / package.file_name


@pytest.fixture(scope="module")
def content(package: Package, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    arrived: list[int] = []
    Apt().fetch([package], cache, arrived.append)
    assert sum(arrived) == package.size
    data = place(package, cache).read_bytes()
    assert len(data) == package.size
    return data


def _partial(package: Package, cache: Cache, data: bytes) -> Path:
    path = cache.root / "packages/partial" / package.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_an_interrupted_download_goes_on(package: Package, content: bytes, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    partial = _partial(package, cache, content[: len(content) // 2])
    Apt().fetch([package], cache, lambda _: None)
    assert place(package, cache).read_bytes() == content
    assert not partial.exists()


def test_a_damaged_part_is_never_taken(package: Package, content: bytes, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    half = bytearray(content[: len(content) // 2])
    half[5000] ^= 0xFF
    _partial(package, cache, bytes(half))
    try:
        Apt().fetch([package], cache, lambda _: None)
    except Exception:
        assert not place(package, cache).exists()
        Apt().fetch([package], cache, lambda _: None)
    digest = hashlib.sha256(place(package, cache).read_bytes()).hexdigest()
    assert digest == hashlib.sha256(content).hexdigest()


def test_no_network(
    package: Package, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    half = content[: len(content) // 2]
    partial = _partial(package, cache, half)
    with monkeypatch.context() as patched:
        for variable in ("http_proxy", "https_proxy"):
            patched.setenv(variable, "http://127.0.0.1:9")
        with pytest.raises(NoNetwork, match="no way to") as raised:
            Apt().fetch([package], cache, lambda _: None)
    assert package.name in raised.value.subject
    assert partial.read_bytes() == half
    assert not place(package, cache).exists()
    Apt().fetch([package], cache, lambda _: None)
    assert place(package, cache).read_bytes() == content


def test_what_is_here_is_not_downloaded_again(
    package: Package, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    place(package, cache).parent.mkdir()
    place(package, cache).write_bytes(content)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    arrived: list[int] = []
    Apt().fetch([package], cache, arrived.append)
    assert arrived == [package.size]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system; run as root")
def test_a_full_disk(package: Package, tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        cache = Cache(tmp_path)
        with pytest.raises(CacheError, match="disk is full"):
            Apt().fetch([package], cache, lambda _: None)
        assert not place(package, cache).exists()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_version_that_never_was() -> None:
    with pytest.raises(PackageMissing, match=r"linux-source-6\.1 6\.1\.0-0") as raised:
        find(Apt(), "linux-source-6.1", "6.1.0-0")
    assert "apt-get update" in raised.value.remedy


def test_names_without_a_package_are_left_out() -> None:
    assert Apt().lookup(["no-such-package-as-this"]) == []
    found = {package.name for package in Apt().lookup(["no-such-package-as-this", NAME])}
    assert found == {NAME}
