# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own files of source packages, through apt: this machine's archives, lists of our own.

Most machines have ``deb`` lines only. The same archives are asked for their source packages with a
configuration, lists and a lock in the cache: nothing of the system changes, and root is not needed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import CommandMissing, RunFailed
from livegraft.run import Completed, run

_ONE_LINE = re.compile(r"deb(?=[\s\[])")
"""How an entry of a ``.list`` file begins (sources.list(5)); those of deb-src are left out."""

_TYPES = re.compile(r"^Types:.*$", re.MULTILINE)

_CONFIGURATION = """\
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{place}/sources/";
Dir::State::lists "{place}/lists/";
Dir::Cache "{place}/cache/";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
"""The hooks are those of the system's own lists (they empty its caches, renew its indexes)."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source package.

    Args:
        name: ``linux_6.1.187-1.debian.tar.xz``.
        uri: where the archive has it.
        size: in bytes.
        checksum: as apt takes it, ``SHA256:...``.
    """

    name: str
    uri: str
    size: int
    checksum: str


class SourceLists:
    """apt's knowledge of source packages.

    Args:
        cache: keeps the lists (some 20 MB for Debian's main archive).
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._place = cache.root / "packages/source-lists"

    def own_files(self, name: str, version: str) -> SourceFile | None:
        """What Debian added to the upstream source: the ``.debian.tar`` of a version.

        Args:
            name: the source package, ``linux-6.12``.
            version: its exact version.

        Returns:
            None if no archive of this machine has that version.
        """
        with self._cache.lock("packages/source-lists"):
            if (self._place / "apt.conf").is_file():
                found = self._ask(name, version)
                if found is not None:
                    return found
            if not self._update():
                return None
            return self._ask(name, version)

    def _ask(self, name: str, version: str) -> SourceFile | None:
        options = ("--print-uris", "--diff-only", "--only-source")
        try:
            printed = self._apt_get("source", *options, "--", f"{name}={version}").stdout
        except RunFailed:
            return None
        # 'URI' FILE SIZE CHECKSUM, between lines of talk.
        for line in printed.splitlines():
            if line.startswith("'"):
                uri, file, size, checksum = shlex.split(line)
                return SourceFile(file, uri, int(size), checksum)
        return None

    def _update(self) -> bool:
        """Fetch the lists; whether there is anything to fetch them from."""
        for folder in ("sources", "lists/partial", "cache/archives/partial"):
            (self._place / folder).mkdir(parents=True, exist_ok=True)
        for old in (self._place / "sources").iterdir():
            old.unlink()
        count = 0
        for path in _source_lists():
            text = as_source_entries(path.name, path.read_text("utf-8"))
            (self._place / "sources" / path.name).write_text(text, "utf-8")
            count += 1
        text = _CONFIGURATION.format(place=self._place)
        (self._place / "apt.conf").write_text(text, "utf-8")
        # What cannot be reached is a warning to apt; what is missing then is said by name.
        self._apt_get("update")
        return count > 0

    def _apt_get(self, *arguments: str) -> Completed:
        return run(["apt-get", f"--config-file={self._place / 'apt.conf'}", *arguments])


def as_source_entries(name: str, text: str) -> str:
    """The entries of a file of apt's sources, asking for source packages instead of binary ones.

    Args:
        name: the file's name: ``.sources`` tells the newer format (sources.list(5)).
        text: its text.
    """
    if name.endswith(".sources"):
        return _TYPES.sub("Types: deb-src", text)
    lines = (line.lstrip() for line in text.splitlines())
    return "".join(
        f"{_ONE_LINE.sub('deb-src', line, count=1)}\n" for line in lines if _ONE_LINE.match(line)
    )


def _source_lists() -> list[Path]:
    """The files in which this machine's archives stand."""
    try:
        answer = run(
            [
                *("apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f"),
                *("PARTS", "Dir::Etc::sourceparts/d"),
            ]
        ).stdout
    except CommandMissing:
        return []
    places = dict(word.split("=", 1) for word in shlex.split(answer))
    parts = Path(places["PARTS"])
    found = sorted(path for path in parts.glob("*") if path.suffix in (".list", ".sources"))
    main = Path(places["LIST"])
    return [*([main] if main.is_file() else []), *found]
