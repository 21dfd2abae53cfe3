# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches that are kept for the next boot: /var/lib/livegraft/patches/RELEASE/NAME/.

Such a folder holds the module (NAME.ko), its detached signatures (NAME.ko.SIGNER.p7s), what it is
loaded with (installed.json), and, from the moment before the boot unit loads it until the machine
has run for some minutes, a marker (trying.json). A marker of another boot tells of a crash.

The folders and files have to be root's, and nobody else may be able to change them. What is wrong
with one patch is told of that patch, and keeps no other one out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime import identity, stacks
from livegraft.runtime.livepatch import MARK, NATIVE, Livepatches
from livegraft.runtime.payload import FORMAT as MANIFEST_FORMAT
from livegraft.runtime.payload import MODULE_NAME_LENGTH
from livegraft.runtime.release import is_older
from livegraft.trust import owned

ROOT = Path("/")

PLACE = "var/lib/livegraft/patches"
"""Below the root."""

RECORD = "installed.json"
MARKER = "trying.json"
FORMAT = 1
"""Of both."""

NAME = rf"[A-Za-z0-9_]{{1,{MODULE_NAME_LENGTH}}}"
"""What a module is called: scripts/Makefile.lib turns everything else into underscores."""

RELEASE = r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}"
"""What a kernel is called: uname(2) has room for 64 characters."""

LARGEST = 1 << 26
"""Bytes of a patch."""

BOOT_ID = "proc/sys/kernel/random/boot_id"

DAMAGED = "uninstall it and install it again: livegraft uninstall {name} -k {release}"


class State(StrEnum):
    """What an installed patch is at this moment."""

    LOADED = "loaded"
    REPLACED = "replaced"
    """A later one, which is in force, has undone it."""
    WAITING = "waiting"
    """For the next boot."""
    OTHER_KERNEL = "other-kernel"
    """For a boot of the kernel that it is for, which is not older than the running one."""
    OBSOLETE = "obsolete"
    """The kernel that it is for is older than the running one, another build of the same name, or
    installed no more."""
    CRASHED = "crashed"
    """It is not loaded again: the machine went down soon after it had been."""
    DAMAGED = "damaged"


class Record(NamedTuple):
    """What a patch is loaded with, and what it was when it was installed.

    Args:
        model: the consistency model.
        replace: it undoes every older patch of the same core in the same change.
        order: patches of lower order are loaded before it.
        sha256: of the module's file, hexadecimal.
        fix_sha256: of the fix, hexadecimal.
        installed: when, as in ISO 8601.
        kernel_build_id: of the kernel that it is for, hexadecimal; "" in records that are older
            than this field.
    """

    model: str
    replace: bool
    order: int
    sha256: str
    fix_sha256: str
    installed: str
    kernel_build_id: str = ""

    def as_json(self) -> dict[str, object]:
        """The record, in documents and in its file."""
        return {name: getattr(self, name) for name in self._fields}


class Trial(NamedTuple):
    """A marker: in which boot a patch was loaded, and when (ISO 8601)."""

    boot_id: str
    since: str


class Installed(NamedTuple):
    """An installed patch.

    Args:
        release: the kernel that it is for.
        name: its module.
        folder: where it is.
        record: how it was installed; None if it is damaged.
        trial: its marker, if there is one.
        problem: what is wrong with it.
        replacing: those that are loaded after it and undo it.
    """

    release: str
    name: str
    folder: Path
    record: Record | None = None
    trial: Trial | None = None
    problem: PatchError | None = None
    replacing: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The module's file."""
        return self.folder / f"{self.name}.ko"

    def crashed(self, root: Path = ROOT) -> bool:
        """Whether an earlier boot ended before it was known to be well with this patch."""
        return self.trial is not None and self.trial.boot_id != boot_id(root)

    def state(self, running: str, root: Path = ROOT) -> State:
        """What it is at this moment.

        Args:
            running: the running kernel's release.
            root: where boot/, lib/modules/, proc/ and sys/ are.
        """
        if self.problem is not None:
            return State.DAMAGED
        if self.release == running and self.is_replaced(root):
            return State.REPLACED
        if self.release == running and self.is_loaded(root):
            return State.LOADED
        if self.obsolete_because(running, root):
            return State.OBSOLETE
        if self.crashed(root):
            return State.CRASHED
        return State.WAITING if self.release == running else State.OTHER_KERNEL

    def obsolete_because(self, running: str, root: Path = ROOT) -> str:
        """Why only a kernel of the past could have it; "" if that is not so.

        Args:
            running: the running kernel's release.
            root: where boot/, lib/modules/ and sys/ are.
        """
        if self.release == running:
            wanted = self.record.kernel_build_id if self.record else ""
            found = identity.running(root)["build_id"]
            if wanted and found and wanted != found:
                return f"it is for another build of {running} than the one that runs"
            return ""
        if not is_kernel_installed(self.release, root):
            return "its kernel is installed no more"
        if not is_older(self.release, running):
            return ""
        again = ", and would be loaded if that were booted again"
        if self.crashed(root):
            again = ", and would not be loaded there either: the machine crashed with it"
        return f"it is for the older kernel {self.release}{again}"

    def is_loaded(self, root: Path = ROOT) -> bool:
        """Whether the running kernel has a patch of this name and of the same fix, and not off."""
        patches = Livepatches(root)
        if self.record is None or patches.is_off(self.name):
            return False
        mark = patches.parameter(self.name, MARK)
        return mark == f"{MANIFEST_FORMAT}:{self.record.fix_sha256}"

    def is_replaced(self, root: Path = ROOT) -> bool:
        """Whether one is in force that has undone it."""
        patches = Livepatches(root)
        own, *others = (patches.of(name).get(name) for name in (self.name, *self.replacing))
        if own is not None and own.enabled:
            return False
        return any(each is not None and each.enabled and not each.transition for each in others)

    def as_json(self, running: str, root: Path = ROOT) -> dict[str, object]:
        """The patch in documents.

        Args:
            running: the running kernel's release.
            root: where boot/, lib/modules/, proc/ and sys/ are.
        """
        record = self.record.as_json() if self.record else dict.fromkeys(Record._fields)
        state = self.state(running, root)
        message = remedy = None
        if self.problem is not None:
            message = f"{self.problem.subject}: {self.problem.problem}"
            remedy = self.problem.remedy
        elif state is State.OBSOLETE:
            message = self.obsolete_because(running, root)
            remedy = f"'livegraft uninstall {self.name} -k {self.release}' removes it"
        return {
            "name": self.name,
            "release": self.release,
            "path": str(self.path),
            "state": state.value,
            **record,
            "crashed": self.trial.since if self.trial and self.crashed(root) else None,
            "message": message,
            "remedy": remedy,
        }


def installed(root: Path = ROOT, release: str | None = None) -> list[Installed]:
    """The installed patches: by kernel, and in the order in which they are loaded.

    Args:
        root: where var/ is.
        release: only those for this kernel.

    Raises:
        Untrusted: others can change the folders that hold them.
    """
    found: list[Installed] = []
    with opened(root) as store:
        for each in [] if store is None else owned.names(store):
            if store is None or not re.fullmatch(RELEASE, each) or release not in (None, each):
                continue
            path = root / PLACE / each
            with owned.inside(path, store) as kernel:
                for name in [] if kernel is None else owned.names(kernel):
                    found += _entry(path / name, kernel)
    found.sort(key=lambda one: (one.release, one.record.order if one.record else 0, one.name))
    return [
        each._replace(replacing=_replacing(each, found[number + 1 :]))
        for number, each in enumerate(found)
    ]


def _replacing(patch: Installed, later: Sequence[Installed]) -> tuple[str, ...]:
    """Which of those that are loaded later undo it: patches of the same core, the kernel's or the
    engine."""
    own = patch.record
    if own is None:
        return ()
    return tuple(
        each.name
        for each in later
        if each.release == patch.release
        and each.record is not None
        and each.record.replace
        and (each.record.model == NATIVE) == (own.model == NATIVE)
    )


@contextmanager
def opened(root: Path = ROOT) -> Iterator[int | None]:
    """The descriptor of the folder that holds the patches, None if there is none.

    Raises:
        Untrusted: others can change it.
    """
    place = root / PLACE
    with owned.folder(place.parent) as above:
        if above is None:
            yield None
            return
        with owned.inside(place, above) as store:
            yield store


def boot_id(root: Path = ROOT) -> str:
    """What this boot of the machine is known by.

    Raises:
        PatchError: the kernel does not tell it.
    """
    found = stacks.read(root / BOOT_ID)
    if not found:
        raise PatchError(str(root / BOOT_ID), "cannot be read", "mount proc")
    return found


def is_kernel_installed(release: str, root: Path = ROOT) -> bool:
    """Whether a kernel's image is there: where Debian has it, or where others have."""
    places = (f"boot/vmlinuz-{release}", f"lib/modules/{release}/vmlinuz")
    return any((root / each).exists() for each in places)


def _entry(path: Path, above: int | None) -> list[Installed]:
    """The patch in a folder; none if it was removed meanwhile."""
    release, name = path.parent.name, path.name
    entry = Installed(release, name, path)
    try:
        if not re.fullmatch(NAME, name):
            entry = Installed(release, repr(name), path)
            raise PatchError(str(path), "is named as no patch can be", "remove it")
        assert above is not None
        with owned.inside(path, above) as folder:
            if folder is None:
                return []
            data = owned.read(entry.path, folder, LARGEST)
            record = _record(path, folder)
            trial = _trial(path, folder)
        _require_same(entry, data, record)
        return [Installed(release, name, path, record, trial)]
    except PatchError as error:
        return [Installed(entry.release, entry.name, path, problem=error)]


def _require_same(entry: Installed, data: bytes | None, record: Record) -> None:
    import hashlib  # seldom needed, and start-up time counts

    remedy = DAMAGED.format(name=entry.name, release=entry.release)
    if data is None:
        raise PatchError(str(entry.path), "is not there", remedy)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise PatchError(str(entry.path), "is not what was installed", remedy)


def _record(path: Path, folder: int) -> Record:
    document = _document(path, folder, RECORD)
    if document is None:
        remedy = DAMAGED.format(name=path.name, release=path.parent.name)
        raise PatchError(str(path / RECORD), "is not there", remedy)
    document = Record._field_defaults | document
    _require_kinds(path / RECORD, document, Record._fields)
    return Record(**{name: document[name] for name in Record._fields})


def _trial(path: Path, folder: int) -> Trial | None:
    document = _document(path, folder, MARKER)
    if document is None:
        return None
    _require_kinds(path / MARKER, document, Trial._fields)
    return Trial(**{name: document[name] for name in Trial._fields})


def _document(path: Path, folder: int, name: str) -> dict[str, Any] | None:
    data = owned.read(path / name, folder)
    if data is None:
        return None
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.get("format") == FORMAT:
            return document
        problem = f"is no document of format {FORMAT}"
    except ValueError as error:  # UnicodeDecodeError is one as well
        problem = f"is damaged: {error}"
    remedy = DAMAGED.format(name=path.name, release=path.parent.name)
    raise PatchError(str(path / name), problem, remedy)


def _require_kinds(path: Path, document: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if type(document.get(name)) is not _KINDS.get(name, str):
            remedy = DAMAGED.format(name=path.parent.name, release=path.parent.parent.name)
            raise PatchError(str(path), f"its {name} is {document.get(name)!r}", remedy)


_KINDS: dict[str, type] = {"replace": bool, "order": int}
"""Of what is no text in the two documents."""


def running_release() -> str:
    """The running kernel's release."""
    return os.uname().release
