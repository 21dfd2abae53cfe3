# SPDX-License-Identifier: GPL-2.0-or-later
"""A signed apt repository in a folder, as somebody makes one for their machines."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from livegraft.run import run

PLACE = "/srv/repository"
"""Where a machine finds it."""

KEYRING = "/etc/apt/keyrings/repository.asc"

SOURCES = f"""\
Types: deb
URIs: file:{PLACE}
Suites: ./
Signed-By: {KEYRING}
"""
"""For /etc/apt/sources.list.d; deb822 style, sources.list(5)."""


class Signer:
    """A key of GnuPG's, in a home of its own.

    Args:
        home: the folder; its path has to be short, for it holds a socket.
    """

    def __init__(self, home: Path) -> None:
        self._gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "")
        run([*self._gpg, "--quick-gen-key", "Repository <r@livegraft.example>", "ed25519", "sign"])

    def public(self) -> bytes:
        """The public key, armoured."""
        return run([*self._gpg, "--armor", "--export"]).stdout.encode()

    def sign(self, path: Path, output: Path) -> None:
        """Sign a file in the clear."""
        run([*self._gpg, "--yes", "--clearsign", "--output", output, path])


@contextmanager
def signer() -> Iterator[Signer]:
    """A new key, forgotten when the block is left."""
    home = Path(tempfile.mkdtemp(prefix="gpg-"))
    try:
        yield Signer(home)
    finally:
        run(["gpgconf", "--homedir", home, "--kill", "all"])
        shutil.rmtree(home, ignore_errors=True)


def publish(folder: Path, packages: Iterable[Path], by: Signer) -> dict[str, bytes]:
    """Make a repository of packages.

    Args:
        folder: a new one.
        packages: their files.
        by: who signs it.

    Returns:
        Its files, by their names.
    """
    folder.mkdir()
    for path in packages:
        shutil.copy(path, folder)
    index = run(["apt-ftparchive", "packages", "."], cwd=folder).stdout
    (folder / "Packages").write_text(index)
    release = run(["apt-ftparchive", "release", "."], cwd=folder).stdout
    (folder / "Release").write_text(release)
    by.sign(folder / "Release", folder / "InRelease")
    (folder / "Release").unlink()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def raised(package: Path, folder: Path, version: str) -> Path:
    """A package with another version, everywhere that it is told."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "--raw-extract", package, folder])
    told = folder.glob("usr/lib/python3/dist-packages/*.dist-info/METADATA")
    for path in (folder / "DEBIAN/control", *told):
        text = re.sub("(?m)^Version: .*", f"Version: {version}", path.read_text())
        path.write_text(re.sub(r"(livegraft-runtime \(=) [^)]*", rf"\1 {version}", text))
    made = folder.with_suffix(".deb")
    run(["dpkg-deb", "--root-owner-group", "--build", folder, made])
    return made


def needed(package: Path) -> tuple[str, ...]:
    """The packages of Debian's that one depends on."""
    listed = run(["dpkg-deb", "-f", package, "Depends"]).stdout.split(",")
    names = (each.split()[0].partition(":")[0] for each in listed)
    return tuple(name for name in names if not name.startswith("livegraft"))
