# SPDX-License-Identifier: GPL-2.0-or-later
"""Unpack packages and source trees into the cache, without root and without installing them."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from lzma import LZMAError
from pathlib import Path

from livegraft.errors import CacheError, ImageError, KernelError, RunFailed
from livegraft.kernel.disk import full_disk
from livegraft.kernel.packages import Package
from livegraft.run import run

_ENTRY = re.compile(r"(?P<name>[a-z0-9][a-z0-9.+-]*) \((?P<version>[^ ()]+)\) ")


def unpack_deb(deb: Path, into: Path) -> None:
    """Write the files of a ``.deb`` below a folder.

    Raises:
        KernelError: the file is damaged.
        CacheError: the disk is full.
    """
    try:
        run(["dpkg-deb", "--extract", deb, into])
    except RunFailed as error:
        raise _unpack_error(deb, error) from error


def unpack(package: Package, file: Path, into: Path) -> None:
    """Write the files of a package below a folder.

    Raises:
        KernelError: the file is damaged.
        CacheError: the disk is full.
    """
    if not package.is_source:
        unpack_deb(file, into)
        return
    try:
        run(["tar", "--extract", "--no-same-owner", f"--file={file}", f"--directory={into}"])
    except RunFailed as error:
        raise _unpack_error(file, error) from error


def own_files_of(path: Path) -> tuple[str, str]:
    """The name and version of the source package whose ``.debian.tar`` a file is.

    They are those of the newest entry in its changelog (deb-changelog(5)).

    Raises:
        KernelError: the file is damaged or something else.
    """
    try:
        with tarfile.open(path) as archive:
            changelog = archive.extractfile("debian/changelog")
            first = changelog.readline().decode("utf-8") if changelog is not None else ""
    except (tarfile.TarError, LZMAError, EOFError, OSError, KeyError, UnicodeError) as error:
        raise KernelError(
            str(path), f"holds no Debian source package ({error})", "fetch it again"
        ) from error
    match = _ENTRY.match(first)
    if match is None:
        raise KernelError(str(path), f"its changelog begins with {first!r}", "fetch it again")
    return match["name"], match["version"]


def unpack_source(archive: Path, into: Path, package: Path) -> None:
    """Unpack a source package's ``linux-source-X.Y.tar.xz`` into a folder and make it read-only.

    The archive's one top folder is left out. Only the folder itself stays writable.

    Args:
        archive: the compressed tar file.
        into: the folder.
        package: the folder of the unpacked package, removed when it is no longer needed.

    Raises:
        KernelError: the file is damaged.
        CacheError: the disk is full.
    """
    threads = min(os.cpu_count() or 1, 4)
    try:
        run(
            [
                *("tar", "--extract", f"--use-compress-program=xz -T{threads}", "--no-same-owner"),
                *("--strip-components=1", f"--file={archive}", f"--directory={into}"),
            ]
        )
        shutil.rmtree(package)
        run(["chmod", "--recursive", "a-w", "--", *into.iterdir()])
    except RunFailed as error:
        raise _unpack_error(archive, error) from error


def localise_headers(root: Path, release: str) -> Path:
    """Make unpacked headers packages work where they are, instead of below ``/usr/src``.

    The links between the packages are relative and hold within `root`; the makefile's
    ``include /usr/src/linux-headers-...-common/Makefile`` and the module folder's links do not.

    Args:
        root: the folder that linux-headers-RELEASE, its common part and linux-kbuild are in.
        release: the kernel release.

    Returns:
        The folder to give to ``make -C`` for external modules.

    Raises:
        ImageError: a part is missing.
    """
    headers = root / "usr/src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    text = makefile.read_text("utf-8")
    if "include /usr/src/" not in text:
        raise ImageError(str(makefile), "does not include the common headers' makefile")
    makefile.write_text(text.replace("include /usr/src/", f"include {root}/usr/src/"), "utf-8")
    included = text.split("include /", 1)[1].split()[0]
    for needed in (root / included, headers / "scripts/mod/modpost", headers / "Module.symvers"):
        if not needed.exists():
            raise ImageError(str(needed), "is missing: the headers packages do not fit together")
    for link in (root / "lib/modules" / release).glob("*"):
        if link.is_symlink() and str(link.readlink()).startswith("/usr/src/"):
            target = root / str(link.readlink()).lstrip("/")
            link.unlink()
            link.symlink_to(target)
    return headers


def _unpack_error(path: Path, error: RunFailed) -> KernelError | CacheError:
    if (full := full_disk(str(path), error.output)) is not None:
        return full
    return KernelError(str(path), f"cannot be unpacked: {error.problem}", "fetch it again")
