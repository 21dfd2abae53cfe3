# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages from a folder and from dpkg, and the choice among them. The packages are real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from livegraft.cache import Cache
from livegraft.errors import CacheError, KernelError, PackageMissing, UnknownRelease, UsageError
from livegraft.kernel.folder import Folder
from livegraft.kernel.installed import Installed
from livegraft.kernel.layout import Stage, entry
from livegraft.kernel.listing import list_kernels
from livegraft.kernel.packages import Chain, Package, find
from livegraft.kernel.release import Flavour, Release
from livegraft.kernel.resolve import resolve, resolve_source

OLD, NEW = "6.1.192-1", "6.1.192-2"
RELEASE = Release.parse("6.1.0-55-amd64")


def make_deb(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, **fields: str
) -> Path:
    """A real package; the names of `fields` with underscores for hyphens."""
    tree = folder / f"tree-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@example.org>",
        "Description": "test",
    } | {key.replace("_", "-"): value for key, value in fields.items()}
    text = "".join(f"{key}: {value}\n" for key, value in control.items())
    (tree / "DEBIAN/control").write_text(text)
    sums = ""
    for path, content in (files or {f"usr/share/doc/{name}/about": "x"}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(content)
        digest = subprocess.run(["md5sum", path], cwd=tree, capture_output=True, check=True)
        sums += digest.stdout.decode()
    (tree / "DEBIAN/md5sums").write_text(sums)
    deb = folder / f"{name}_{version}_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(tree)
    return deb


def make_release(folder: Path, release: str, version: str, depends: str = "") -> None:
    """The packages of a release, without linux-kbuild and linux-source."""
    make_deb(folder, f"linux-image-{release}-unsigned", version, Source="linux")
    others = f"linux-headers-6.1.0-55-common (= {version}), linux-kbuild-6.1 (>= {version})"
    make_deb(folder, f"linux-headers-{release}", version, Depends=depends or others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "debs"
    path.mkdir()
    make_release(path, "6.1.0-55-amd64", OLD)
    make_deb(path, "linux-headers-6.1.0-55-common", OLD)
    make_deb(path, "linux-kbuild-6.1", NEW)
    make_deb(path, "linux-source-6.1", OLD)
    make_deb(path, "linux-source-6.1", NEW)
    return path


def test_resolve_takes_the_exact_versions(folder: Path) -> None:
    packages = resolve(RELEASE, Folder(folder), Cache())
    assert str(packages.image) == f"linux-image-6.1.0-55-amd64-unsigned {OLD}"
    assert [str(package) for package in packages.headers] == [
        f"linux-headers-6.1.0-55-amd64 {OLD}",
        f"linux-headers-6.1.0-55-common {OLD}",
        f"linux-kbuild-6.1 {NEW}",
    ]
    assert str(packages.source.package) == f"linux-source-6.1 {OLD}"
    assert packages.source_version == OLD


def test_linux_kbuild_of_the_same_version_is_preferred(folder: Path) -> None:
    make_deb(folder, "linux-kbuild-6.1", OLD)
    assert resolve(RELEASE, Folder(folder), Cache()).headers[2].version == OLD


@pytest.mark.parametrize(
    ("removed", "missing"),
    [
        (f"linux-source-6.1_{OLD}_all.deb", f"linux-source-6.1 {OLD}"),
        (f"linux-headers-6.1.0-55-amd64_{OLD}_all.deb", f"linux-headers-6.1.0-55-amd64 {OLD}"),
        (f"linux-headers-6.1.0-55-common_{OLD}_all.deb", f"linux-headers-6.1.0-55-common {OLD}"),
        (f"linux-kbuild-6.1_{NEW}_all.deb", f"linux-kbuild-6.1 >= {OLD}"),
    ],
)
def test_a_missing_package_is_named(folder: Path, removed: str, missing: str) -> None:
    (folder / removed).unlink()
    with pytest.raises(PackageMissing) as raised:
        resolve(RELEASE, Folder(folder), Cache())
    assert raised.value.subject == missing
    assert "--packages" in raised.value.remedy and "apt-get update" in raised.value.remedy


def test_an_older_linux_kbuild_does_not_do(folder: Path) -> None:
    (folder / f"linux-kbuild-6.1_{NEW}_all.deb").unlink()
    make_deb(folder, "linux-kbuild-6.1", "6.1.176-1")
    with pytest.raises(PackageMissing, match=r"linux-kbuild-6\.1"):
        resolve(RELEASE, Folder(folder), Cache())


def test_a_signed_image_names_its_source(folder: Path) -> None:
    (folder / f"linux-image-6.1.0-55-amd64-unsigned_{OLD}_all.deb").unlink()
    make_deb(
        folder,
        "linux-image-6.1.0-55-amd64",
        f"{OLD}+b1",
        Source="linux-signed-amd64 (6.1.192+1)",
        Built_Using=f"linux (= {OLD})",
    )
    packages = resolve(RELEASE, Folder(folder), Cache())
    assert packages.image.name == "linux-image-6.1.0-55-amd64"
    assert packages.source_version == OLD


def test_unknown_release_offers_what_is_near(folder: Path) -> None:
    with pytest.raises(UnknownRelease, match=r"did you mean 6\.1\.0-55-amd64"):
        resolve(Release.parse("6.1.0-53-amd64"), Folder(folder), Cache())


def test_source_package_of_a_version_and_of_a_release(folder: Path) -> None:
    source = Folder(folder)
    assert resolve_source(NEW, source, Cache()).package.version == NEW
    assert resolve_source("6.1.0-55-amd64", source, Cache()).package.version == OLD
    with pytest.raises(PackageMissing, match=r"linux-source-6\.1 6\.1\.1-1"):
        resolve_source("6.1.1-1", source, Cache())


def test_find_takes_the_newest(folder: Path) -> None:
    make_deb(folder, "linux-source-6.1", "6.1.192-10")
    assert find(Folder(folder), "linux-source-6.1").version == "6.1.192-10"


def test_an_earlier_source_of_a_chain_is_preferred(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_deb(other, "linux-source-6.1", OLD)
    first, second = Folder(other), Folder(folder)
    assert find(Chain((first, second)), "linux-source-6.1", OLD).origin is first
    assert find(Chain((second, first)), "linux-source-6.1", OLD).origin is second
    assert find(Chain((first, second)), "linux-source-6.1", NEW).origin is second


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        Folder(tmp_path / "none")


def test_a_file_that_is_no_package(folder: Path) -> None:
    (folder / "linux-image.deb").write_bytes(b"!<arch>\nnothing")
    with pytest.raises(KernelError, match="no whole Debian package"):
        Folder(folder).names("linux-")


def test_a_truncated_package(folder: Path, tmp_path: Path) -> None:
    deb = make_deb(folder, "linux-x", "1", {"usr/x": "x" * 100_000})
    os.truncate(deb, deb.stat().st_size - 50_000)
    source = Folder(folder)
    with pytest.raises(KernelError, match="cannot be unpacked"):
        source.unpack(find(source, "linux-x"), Cache(tmp_path / "cache"), tmp_path / "out")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system; run as root")
def test_a_full_disk_while_unpacking(folder: Path, tmp_path: Path) -> None:
    make_deb(folder, "linux-x", "1", {"usr/x": "x" * 2_000_000})
    source, small = Folder(folder), tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(small)]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(CacheError, match="disk is full"):
            source.unpack(find(source, "linux-x"), Cache(small), small / "out")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A root folder in which dpkg has installed an image."""
    root = tmp_path / "system"
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir()
    (root / "var/lib/dpkg/status").touch()
    # As on every Debian 12 (merged /usr), while the package has ./lib.
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    debs = tmp_path / "installed"
    debs.mkdir()
    files = {
        "boot/vmlinuz-6.1.0-55-amd64": "code",
        "boot/config-6.1.0-55-amd64": "settings",
        "lib/modules/6.1.0-55-amd64/kernel/x.ko": "module",
        "usr/share/doc/linux-image-6.1.0-55-amd64/changelog": "left out on slim systems",
    }
    deb = make_deb(debs, "linux-image-6.1.0-55-amd64", OLD, files, Built_Using=f"linux (= {OLD})")
    other = make_deb(debs, "other", "1")
    argv = ["dpkg", f"--root={root}", "--force-not-root", "--force-bad-path", "--log=/dev/null"]
    subprocess.run([*argv, "--install", deb, other], check=True, capture_output=True)
    return root


@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg installs into a root folder; run as root")
def test_installed(system: Path, tmp_path: Path) -> None:
    (system / "usr/share/doc/linux-image-6.1.0-55-amd64/changelog").unlink()
    source = Installed(system)
    assert source.names("linux-image-") == ["linux-image-6.1.0-55-amd64"]
    assert source.lookup(["other"]) == []
    (package,) = source.lookup(["linux-image-6.1.0-55-amd64"])
    assert (package.version, package.source_version, package.size) == (OLD, OLD, 0)
    cache = Cache(tmp_path / "cache")
    source.fetch([package], cache, lambda _: None)
    source.unpack(package, cache, tmp_path / "out")
    assert (tmp_path / "out/boot/vmlinuz-6.1.0-55-amd64").read_text() == "code"
    assert (tmp_path / "out/lib/modules/6.1.0-55-amd64/kernel/x.ko").read_text() == "module"
    assert not (tmp_path / "out/lib").is_symlink()
    assert not (tmp_path / "out/usr").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg installs into a root folder; run as root")
def test_an_installed_file_that_was_changed(system: Path, tmp_path: Path) -> None:
    (system / "boot/vmlinuz-6.1.0-55-amd64").write_text("c0de")
    source = Installed(system)
    (package,) = source.lookup(["linux-image-6.1.0-55-amd64"])
    with pytest.raises(KernelError, match=r"/boot/vmlinuz-6.1.0-55-amd64 is not as the package"):
        source.fetch([package], Cache(tmp_path / "cache"), lambda _: None)


def test_package_from_an_index() -> None:
    fields = {
        "Package": "linux-image-6.12.117+deb12-amd64",
        "Source": "linux-signed-6.12-amd64 (6.12.117+1~deb12u1)",
        "Version": "6.12.117-1~deb12u1",
        "Architecture": "amd64",
        "Built-Using": "linux-6.12 (= 6.12.117-1~deb12u1)",
        "Filename": "pool/x.deb",
        "Size": "107",
    }
    package = Package.from_control(fields, Installed())
    assert (package.source_name, package.source_version) == ("linux-6.12", "6.12.117-1~deb12u1")
    assert package.file_name == "linux-image-6.12.117+deb12-amd64_6.12.117-1~deb12u1_amd64.deb"
    assert (package.size, package.location) == (107, "pool/x.deb")


def test_a_kernel_that_cannot_be_patched_is_listed(folder: Path, tmp_path: Path) -> None:
    """Its configuration, which an earlier step has left in the cache, says why."""
    cache = Cache(tmp_path / "cache")
    config = cache.root / entry("6.1.0-55-amd64", Stage.IMAGE) / "boot/config-6.1.0-55-amd64"
    config.parent.mkdir(parents=True)
    config.write_text("CONFIG_X86_64=y\nCONFIG_MODULES=y\n# CONFIG_LIVEPATCH is not set\n")
    (kernel,) = (
        each for each in list_kernels(Folder(folder), cache) if each.release == "6.1.0-55-amd64"
    )
    assert not kernel.usable
    assert "CONFIG_LIVEPATCH" in kernel.why_not


def test_list_kernels(folder: Path, tmp_path: Path) -> None:
    for release in ("6.1.0-55-rt-amd64", "6.1.0-55-cloud-amd64"):
        make_release(folder, release, OLD, "linux-compiler-gcc-97-x86, gcc-97")
    make_release(folder, "6.1.0-9-amd64", "6.1.27-1")
    make_deb(folder, "linux-image-amd64", NEW)
    make_deb(folder, "linux-image-6.1.0-55-amd64-dbg", OLD)
    kernels = list_kernels(Folder(folder), Cache(tmp_path / "cache"))
    found = {kernel.release: kernel for kernel in kernels}
    assert list(found) == [
        "6.1.0-9-amd64",
        "6.1.0-55-amd64",
        "6.1.0-55-cloud-amd64",
        "6.1.0-55-rt-amd64",
    ]
    assert found["6.1.0-55-amd64"].usable and not found["6.1.0-55-amd64"].prepared
    assert found["6.1.0-55-amd64"].source_version == OLD
    assert "linux-source-6.1 6.1.27-1" in found["6.1.0-9-amd64"].why_not
    assert "gcc-97" in found["6.1.0-55-cloud-amd64"].why_not
    assert found["6.1.0-55-cloud-amd64"].flavour is Flavour.CLOUD
    assert found["6.1.0-55-rt-amd64"].flavour is Flavour.RT
    assert found["6.1.0-55-amd64"].as_json()["why_not"] is None
