# SPDX-License-Identifier: GPL-2.0-or-later
"""A live patch file: read once, checked, and loaded from those very bytes.

The manifest is the JSON in the non-allocated section ``.livegraft`` that the builder puts into
every module it makes.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from livegraft.elf import header
from livegraft.errors import ElfError, PatchError, Untrusted, UsageError
from livegraft.runtime import tables
from livegraft.runtime.returning import relocated_modules
from livegraft.trust import appended

SECTION = ".livegraft"
"""The section of the manifest."""

FORMAT = 1
"""The manifest's format that this code reads."""

CHANGED = "changed"
"""The state of functions that are redirected; others are only told of."""

REPLACE = b"parmtype=replace:bool"
"""What ``module_param(replace, bool, ...)`` leaves in .modinfo (include/linux/moduleparam.h)."""

MODULE_NAME_LENGTH = 55
"""Characters of a module's name: ``MODULE_NAME_LEN`` of include/linux/module.h, less its NUL."""

MACHINES = {"x86_64": header.Machine.X86_64, "aarch64": header.Machine.AARCH64}
"""``e_machine`` by what uname(2) calls the machine."""

REBUILD = "copy the file again, or build it again with 'livegraft build'"


class PatchedFunction(NamedTuple):
    """A function that the patch changes, brings or removes.

    Args:
        name: in kallsyms.
        sympos: its position among those of that name, from 1.
        state: changed, new or removed.
        unit: the source file.
        cold: whether the kernel's has a part elsewhere (``NAME.cold``); None if the manifest does
            not tell, as those of the first livegraft do not.
    """

    name: str
    sympos: int
    state: str
    unit: str
    cold: bool | None = None


class PatchedObject(NamedTuple):
    """``vmlinux`` or a module that is patched, and the hexadecimal build ID it has to have."""

    name: str
    build_id: str
    functions: tuple[PatchedFunction, ...]


class Manifest(NamedTuple):
    """What the builder wrote about a patch.

    Args:
        name: the module's name.
        release: the kernel's release (``6.1.0-55-amd64``).
        kernel_build_id: the kernel's build ID, hexadecimal.
        source_version: the version of the kernel's source package.
        objects: what is patched.
        fix_sha256: of the fix, hexadecimal.
        proof: whether the shipped code was proved to be the source's.
        cves: CVE ids of what it fixes.
        upstream: the commits that the fix was taken from.
        sha256: of the manifest itself, hexadecimal.
    """

    name: str
    release: str
    kernel_build_id: str
    source_version: str
    objects: tuple[PatchedObject, ...]
    fix_sha256: str
    proof: bool
    cves: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def changed(self) -> tuple[tuple[str, PatchedFunction], ...]:
        """The functions that it redirects, each with its object's name."""
        return tuple(
            (each.name, function)
            for each in self.objects
            for function in each.functions
            if function.state == CHANGED
        )


class Payload(NamedTuple):
    """A live patch module, whole, in memory.

    Args:
        path: where it was read from; never opened again.
        data: its bytes: what is checked is what is loaded.
        name: the module's name.
        vermagic: its ``vermagic``; the first word is the kernel's release.
        manifest: what livegraft wrote into it, or None for a foreign live patch.
        relocated_modules: target modules whose symbols it refers to by livepatch relocations.
        can_replace: it has the parameter ``replace`` of the payloads of today.
    """

    path: Path
    data: bytes
    name: str
    vermagic: str
    manifest: Manifest | None
    relocated_modules: tuple[str, ...] = ()
    can_replace: bool = False

    @property
    def release(self) -> str:
        """The kernel release that the module was built for."""
        return self.vermagic.split(" ", 1)[0]

    @property
    def functions(self) -> tuple[tuple[str, str], ...]:
        """What it redirects, by object and name; empty for a foreign one, which does not tell."""
        return tuple((owner, function.name) for owner, function in self._changed)

    @property
    def cold(self) -> frozenset[tuple[str, str]] | None:
        """Those of them that have a cold part; None if the manifest does not tell."""
        if any(function.cold is None for _, function in self._changed):
            return None
        return frozenset((owner, each.name) for owner, each in self._changed if each.cold)

    @property
    def _changed(self) -> tuple[tuple[str, PatchedFunction], ...]:
        return self.manifest.changed if self.manifest else ()

    @property
    def sha256(self) -> str:
        """Of the whole file, hexadecimal."""
        return _sha256(self.data)

    @classmethod
    def read(cls, path: Path, *, foreign: bool = False, machine: str | None = None) -> Payload:
        """Read and check a live patch.

        Args:
            path: the module's file: a regular file, not a symbolic link.
            foreign: accept a live patch that livegraft did not build.
            machine: what the module has to be for, as uname(2) says it; this machine by default.

        Raises:
            UsageError: it does not exist.
            PatchError: it cannot be read, or it is not a live patch for this machine.
            Untrusted: something follows the module that is no signature.
        """
        data = _read_regular(path)
        file = _parse(path, data, machine or os.uname().machine)
        _require_ended(path, data, file)
        info = modinfo(file)
        if info.get("livepatch") != "Y":
            raise PatchError(
                str(path),
                "is a kernel module but not a live patch",
                "load it with modprobe, or name a file that 'livegraft build' made",
            )
        name = info.get("name", "")
        if not name or len(name) > MODULE_NAME_LENGTH or "/" in name or name.startswith("."):
            raise PatchError(str(path), f"has the impossible module name '{name}'", REBUILD)
        raw = file.section_data(SECTION)
        if raw is None and not foreign:
            raise PatchError(
                str(path),
                "is a live patch that livegraft did not build: nothing says which kernel it is for",
                "use --foreign if you know that it is for this kernel",
            )
        manifest = None if raw is None else parse_manifest(bytes(raw), str(path))
        if manifest is not None and manifest.name != name:
            raise PatchError(
                str(path), f"its manifest is that of '{manifest.name}', not of '{name}'", REBUILD
            )
        if manifest is not None:
            _require_true(manifest, file, str(path))
        return cls(
            path,
            data,
            name,
            info.get("vermagic", ""),
            manifest,
            relocated_modules(section.name for section in file.sections),
            manifest is not None and REPLACE in _entries(file),
        )


def _require_true(manifest: Manifest, file: header.File, subject: str) -> None:
    """What is looked for before a load is what the manifest names: it has to be what is loaded."""
    told = {(owner, each.name, each.sympos) for owner, each in manifest.changed}
    try:
        found = tables.redirected(file, subject)
    except ElfError as error:
        raise PatchError(subject, error.problem, REBUILD) from error
    if different := sorted(f"{owner}:{name}" for owner, name, _ in told ^ found):
        problem = f"its manifest and its tables differ in {', '.join(different[:3])}"
        raise PatchError(subject, problem, REBUILD)


def _sha256(data: bytes) -> str:
    import hashlib  # seldom needed, and start-up time counts

    return hashlib.sha256(data).hexdigest()


def _read_regular(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for its writer; regular files do not mind.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise UsageError(str(path), "does not exist", "name a live patch's .ko file") from error
    except OSError as error:
        remedy = "check the path"
        if error.errno == errno.ELOOP:
            remedy = "it is a symbolic link: name the file that it points to"
        elif error.errno == errno.EACCES:
            remedy = "run as root"
        problem = f"cannot be opened: {error.strerror}"
        raise PatchError(str(path), problem, remedy) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PatchError(str(path), "is not a regular file", "name a live patch's .ko file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise PatchError(str(path), f"cannot be read: {error.strerror}", REBUILD) from error


def _parse(path: Path, data: bytes, machine: str) -> header.File:
    try:
        file = header.parse(data, str(path))
    except ElfError as error:
        raise PatchError(str(path), error.problem, REBUILD) from error
    expected = MACHINES.get(machine)
    if expected is None:
        raise PatchError(machine, "livegraft has no live patches for this machine", "")
    if file.machine != expected:
        raise PatchError(
            str(path),
            f"is for another machine (ELF machine {file.machine}, {machine} is {int(expected)})",
            f"build the fix for a kernel of {machine}",
        )
    if file.type != header.FileType.REL or file.section(".modinfo") is None:
        raise PatchError(
            str(path), "is not a kernel module", "name a file that 'livegraft build' made"
        )
    return file


def _require_ended(path: Path, data: bytes, file: header.File) -> None:
    """A signature whose mark was damaged must not pass for none."""
    content, _ = appended.split(data, str(path))
    if file.end != len(content):
        problem = f"{len(content) - file.end:+} bytes follow the module, and they are no signature"
        raise Untrusted(str(path), problem, appended.AGAIN)


def _entries(file: header.File) -> list[bytes]:
    """What stands in ``.modinfo``."""
    return bytes(file.section_data(".modinfo") or b"").split(b"\0")


def modinfo(file: header.File) -> dict[str, str]:
    """The ``key=value`` strings of a module's ``.modinfo`` (the first value of each key)."""
    found: dict[str, str] = {}
    for entry in _entries(file):
        key, separator, value = entry.decode("utf-8", "replace").partition("=")
        if separator:
            found.setdefault(key, value)
    return found


def parse_manifest(raw: bytes, subject: str) -> Manifest:
    """Read a manifest.

    Args:
        raw: the contents of section ``.livegraft``.
        subject: what to call the module in an error.

    Raises:
        PatchError: it is damaged, or of a format that this code does not know.
    """
    try:
        document = json.loads(raw.rstrip(b"\0"))
    except ValueError as error:  # UnicodeDecodeError is one as well
        raise PatchError(subject, f"its manifest is damaged: {error}", REBUILD) from error
    if not isinstance(document, dict):
        raise PatchError(subject, "its manifest is not an object", REBUILD)
    if document.get("format") != FORMAT:
        raise PatchError(
            subject,
            f"its manifest has format {document.get('format')!r}, this livegraft reads {FORMAT}",
            "use the livegraft that built it",
        )
    try:
        return _manifest(document)._replace(sha256=_sha256(raw))
    except (KeyError, TypeError, ValueError) as error:
        raise PatchError(subject, f"its manifest is incomplete: {error!r}", REBUILD) from error


def _manifest(document: Mapping[str, object]) -> Manifest:
    kernel = _mapping(document["kernel"])
    objects = document["objects"]
    if not isinstance(objects, list) or not objects:
        raise ValueError("no objects")
    proof, fix = document["proof"], _mapping(document["fix"])
    return Manifest(
        name=_text(document["name"]),
        release=_text(kernel["release"]),
        kernel_build_id=_build_id(kernel["build_id"]),
        source_version=_text(kernel["source_version"]),
        objects=tuple(_object(_mapping(each)) for each in objects),
        fix_sha256=_text(fix["sha256"]),
        proof=proof is True,
        cves=_texts(fix.get("cves", [])),  # the first manifests of this format had none
        upstream=_texts(fix.get("upstream", [])),
    )


def _object(document: Mapping[str, object]) -> PatchedObject:
    functions = document["functions"]
    if not isinstance(functions, list):
        raise ValueError("functions is not a list")
    return PatchedObject(
        _text(document["name"]),
        _build_id(document["build_id"]),
        tuple(_function(_mapping(each)) for each in functions),
    )


def _function(document: Mapping[str, object]) -> PatchedFunction:
    sympos, cold = document["sympos"], document.get("cold")
    if not isinstance(sympos, int):
        raise ValueError(f"sympos is {sympos!r}")
    if not isinstance(cold, bool | None):
        raise ValueError(f"cold is {cold!r}")
    return PatchedFunction(
        _text(document["name"]), sympos, _text(document["state"]), _text(document["unit"]), cold
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not an object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return tuple(map(_text, value))


def _build_id(value: object) -> str:
    # An empty ID would compare with nothing: refuse it here, once.
    text = _text(value).lower()
    if len(text) < 16 or len(text) % 2 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text!r} is not a build ID")
    return text
