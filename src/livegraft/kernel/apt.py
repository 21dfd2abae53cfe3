# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages from the archive, through apt: its lists, its proxies, its checks; no root.

apt's lists say which packages there are. ``apt-helper`` downloads, because it resumes what was
interrupted, verifies the checksum from the signed lists, and leaves nothing in apt's own folders.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import CacheError, KernelError, NoNetwork, PackageMissing, RunFailed
from livegraft.kernel.disk import full_disk
from livegraft.kernel.packages import Arrived, Package
from livegraft.kernel.sourcelists import SourceFile, SourceLists
from livegraft.kernel.unpack import unpack
from livegraft.run import run

APT_HELPER = "/usr/lib/apt/apt-helper"
_NO_ROUTE = re.compile(
    r"Temporary failure resolving|Could not resolve|Could not connect|Unable to connect"
    r"|Network is unreachable|Connection (?:refused|timed out|failed)|Something wicked"
)
_POLL_SECONDS = 0.1


class Apt:
    """The archive as apt's configuration and lists on this machine describe it."""

    def __init__(self) -> None:
        self._known: dict[str, list[Package]] = {}
        self._sources: dict[str, SourceFile] = {}

    @property
    def label(self) -> str:
        return "the archive (through apt)"

    def names(self, prefix: str) -> list[str]:
        return sorted(run(["apt-cache", "pkgnames", prefix]).stdout.split())

    def lookup(self, names: Iterable[str]) -> list[Package]:
        wanted = list(dict.fromkeys(names))
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            self._known |= {name: [] for name in unknown}
            for package in self._show(unknown):
                self._known[package.name].append(package)
        return [package for name in wanted for package in self._known[name]]

    def _show(self, names: Sequence[str]) -> Iterator[Package]:
        from debian.deb822 import Deb822

        try:
            text = run(["apt-cache", "show", "--", *names]).stdout
        except RunFailed as error:
            if "No packages found" in error.output:
                return
            raise
        for paragraph in Deb822.iter_paragraphs(text, use_apt_pkg=False):
            # One that is installed but in no list has no file to download.
            if "Filename" in paragraph:
                yield Package.from_control(paragraph, self)

    def own_files(self, name: str, version: str, cache: Cache) -> Package | None:
        found = SourceLists(cache).own_files(name, version)
        if found is None:
            return None
        self._sources[found.name] = found
        return Package.of_source(name, version, self, found.name, found.size)

    def fetch(self, packages: Sequence[Package], cache: Cache, arrived: Arrived) -> None:
        absent = []
        for package in packages:
            if _place(package, cache).is_file():
                arrived(package.size)
            else:
                absent.append(package)
        if not absent:
            return
        for package, uri, checksum in self._addresses(absent):
            _download(package, uri, checksum, cache, arrived)

    def unpack(self, package: Package, cache: Cache, into: Path) -> None:
        unpack(package, _place(package, cache), into)

    def _addresses(self, packages: Sequence[Package]) -> Iterator[tuple[Package, str, str]]:
        """Each package with where it is and its checksum."""
        for package in packages:
            if package.is_source:
                file = self._sources[package.file_name]
                yield package, file.uri, file.checksum
        binary = [package for package in packages if not package.is_source]
        if binary:
            for package, address in zip(binary, _uris(binary), strict=True):
                yield package, *address


def _place(package: Package, cache: Cache) -> Path:
    return cache.root / "packages" / package.file_name


def _uris(packages: Sequence[Package]) -> Iterator[tuple[str, str]]:
    """Where apt would download each package from, and its checksum (``SHA256:...``)."""
    wanted = [f"{package.name}={package.version}" for package in packages]
    try:
        lines = run(["apt-get", "download", "--print-uris", "--", *wanted]).stdout.splitlines()
    except RunFailed as error:
        raise PackageMissing(
            ", ".join(str(package) for package in packages),
            f"apt does not know where to get it ({error.problem})",
            "run 'apt-get update'",
        ) from error
    # 'URI' FILE SIZE CHECKSUM, in the order of the command line or not.
    found = {words[1]: (words[0], words[3]) for words in map(shlex.split, lines)}
    for package in packages:
        yield found[package.file_name]


def _download(package: Package, uri: str, checksum: str, cache: Cache, arrived: Arrived) -> None:
    # The partial file keeps its place between runs: apt goes on where it ended.
    partial = cache.root / "packages" / "partial" / package.file_name

    def build(place: Path) -> None:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with _watched(partial, arrived):
            try:
                run([APT_HELPER, "download-file", uri, partial, checksum])
            except RunFailed as error:
                raise _download_error(package, uri, error) from error
        partial.rename(place)

    cache.file(f"packages/{package.file_name}", build)


def _download_error(package: Package, uri: str, error: RunFailed) -> KernelError | CacheError:
    text = error.output
    if (full := full_disk(str(package), text)) is not None:
        return full
    if "404" in text:
        return PackageMissing(
            str(package),
            "the archive no longer has it where apt's lists say",
            "run 'apt-get update', or add '--packages FOLDER' with "
            f"{package.file_name if package.is_source else 'the .deb files'}",
        )
    if _NO_ROUTE.search(text):
        return NoNetwork(
            str(package),
            f"cannot be downloaded: no way to {uri.split('/')[2]}",
            "connect the machine, set apt's proxy, or add '--packages FOLDER'; "
            "what has arrived is kept",
        )
    reasons = [line for line in text.splitlines() if line.startswith("E: ")]
    problem = reasons[0][3:] if reasons else error.problem
    return KernelError(str(package), f"cannot be downloaded: {problem}", "try again")


@contextmanager
def _watched(path: Path, arrived: Arrived) -> Iterator[None]:
    """Tell `arrived` how a file grows while somebody else writes it."""
    ended = threading.Event()
    told = 0

    def tell() -> None:
        nonlocal told
        size = path.stat().st_size if path.is_file() else told
        if size > told:
            arrived(size - told)
            told = size

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            tell()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        tell()
