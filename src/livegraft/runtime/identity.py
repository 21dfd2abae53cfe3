# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this the kernel, and are these the modules, that the patch was built for?

A release string says little: anyone can build a kernel of the same name. Build IDs are hashes over
the linked code. They are compared here, before the kernel sees the file.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from livegraft.errors import ElfError, IdentityMismatch, PatchError

if TYPE_CHECKING:
    from livegraft.runtime.payload import Manifest, PatchedObject, Payload

NT_GNU_BUILD_ID = 3
"""Type of the note, of owner ``GNU``: <elf.h>."""

VMLINUX = "vmlinux"
"""The object that is the kernel itself."""

MODULE_NOTE = "notes/.note.gnu.build-id"
"""A loaded module's note, below /sys/module/NAME (kernel/module/sysfs.c, ``add_notes_attrs``)."""

ROOT = Path("/")


class Identity(NamedTuple):
    """What was found out about the objects of a patch.

    Args:
        absent: target modules that are not loaded now.
        warnings: what could not be compared, and why.
    """

    absent: tuple[str, ...]
    warnings: tuple[str, ...]


def build_id(notes: bytes) -> str | None:
    """The build ID in a series of ELF notes, hexadecimal; None if there is none.

    A note is ``Elf64_Nhdr`` {u32 namesz, descsz, type}, then name and descriptor, each padded to 4
    bytes. Source: System V ABI, chapter 5, "Note Section"; what Linux really pads: elf(5).
    """
    offset = 0
    while offset + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("=III", notes, offset)
        name_at = offset + 12
        at = name_at + (name_size + 3 & ~3)
        offset = at + (size + 3 & ~3)
        if at + size > len(notes):
            return None
        if kind == NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[at : at + size].hex()
    return None


def kernel_build_id(root: Path = ROOT) -> str:
    """The running kernel's build ID.

    Raises:
        PatchError: the kernel does not tell it.
    """
    path = root / "sys/kernel/notes"
    try:
        found = build_id(path.read_bytes())
    except OSError as error:
        raise PatchError(str(path), f"cannot be read: {error.strerror}", "mount sysfs") from error
    if found is None:
        raise PatchError(str(path), "has no build ID", "boot a kernel of the distribution")
    return found


def running(root: Path = ROOT) -> dict[str, str]:
    """The running kernel's release and build ID, "" where it does not tell that, for documents."""
    try:
        found = kernel_build_id(root)
    except PatchError:
        found = ""
    return {"release": os.uname().release, "build_id": found}


def module_build_id(name: str, root: Path = ROOT) -> str | None:
    """A loaded module's build ID; None if the module is not loaded or has none."""
    try:
        return build_id((root / "sys/module" / name / MODULE_NOTE).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PatchError(name, f"its build ID cannot be read: {error.strerror}", "") from error


def check(payload: Payload, root: Path = ROOT, release: str | None = None) -> Identity:
    """Compare what a patch was built for with what runs.

    Args:
        payload: the patch.
        root: where sys/ and lib/modules/ are.
        release: the running kernel's release; uname(2) by default.

    Raises:
        IdentityMismatch: it was built for another kernel, or another build of a module.
        PatchError: the kernel's identity cannot be read.
    """
    release = release or os.uname().release
    if payload.manifest is None:
        _check_release(payload, release)
        return Identity((), ("built by another tool: no build ID was compared",))
    _check_kernel(payload, payload.manifest, kernel_build_id(root), release)
    absent: list[str] = []
    warnings: list[str] = []
    for each in payload.manifest.objects:
        if each.name == VMLINUX:
            continue
        if (root / "sys/module" / each.name / "initstate").exists():
            _check_loaded(payload, each, module_build_id(each.name, root))
        else:
            absent.append(each.name)
            warnings.extend(_check_installed(payload, each, root / "lib/modules" / release))
    return Identity(tuple(absent), tuple(warnings))


def check_installed(payload: Payload, manifest: Manifest, root: Path = ROOT) -> tuple[str, ...]:
    """Compare a patch with the module files of a kernel that does not run now.

    Args:
        payload: the patch.
        manifest: its own.
        root: where lib/modules/ is.

    Returns:
        What could not be compared, and why.

    Raises:
        IdentityMismatch: its module is not for the kernel that its manifest names, or it was built
            for another build of a module.
    """
    from livegraft.runtime.payload import REBUILD  # only who has one gets here

    if payload.release != manifest.release:
        problem = f"is a module of {payload.release}, and its manifest names {manifest.release}"
        raise IdentityMismatch(payload.name, problem, REBUILD)
    modules = root / "lib/modules" / manifest.release
    return tuple(
        warning
        for each in manifest.objects
        if each.name != VMLINUX
        for warning in _check_installed(payload, each, modules)
    )


def _check_release(payload: Payload, release: str) -> None:
    if payload.release != release:
        raise IdentityMismatch(
            payload.name,
            f"was built for kernel {payload.release}, this machine runs {release}",
            f"build the patch for {release}",
        )


def _check_kernel(payload: Payload, manifest: Manifest, running: str, release: str) -> None:
    if manifest.release != release:
        raise IdentityMismatch(
            payload.name,
            f"was built for kernel {manifest.release}, this machine runs {release}",
            f"build the patch with -k {release}",
        )
    _check_release(payload, release)
    if manifest.kernel_build_id != running:
        raise IdentityMismatch(
            payload.name,
            f"was built for the kernel {manifest.kernel_build_id[:16]} (source "
            f"{manifest.source_version}); this machine runs {running[:16]}: "
            f"another build, also named {release}",
            "build the patch from the packages of the kernel that runs",
        )


def _check_loaded(payload: Payload, wanted: PatchedObject, running: str | None) -> None:
    if running != wanted.build_id:
        has = f"is {running[:16]}" if running else "has no build ID"
        raise IdentityMismatch(
            payload.name,
            f"was built for module {wanted.name} {wanted.build_id[:16]}, the loaded one {has}",
            f"load the distribution's {wanted.name}, or build the patch for the one that runs",
        )


def _check_installed(payload: Payload, wanted: PatchedObject, modules: Path) -> list[str]:
    """Compare a target that is not loaded yet: its file is what would be loaded later."""
    from livegraft.elf import header  # seldom needed, and start-up time counts

    path = installed_module(wanted.name, modules)
    if path is None:
        return []  # nothing there that could be loaded
    data = _decompressed(path)
    if data is None:
        return [
            f"{wanted.name} is not loaded, and the build ID of {path} is unknown: compressed with "
            f"{path.suffix[1:]}, which this Python does not read"
        ]
    try:
        note = header.parse(data, str(path)).section_data(".note.gnu.build-id")
    except ElfError as error:
        raise IdentityMismatch(
            payload.name,
            f"module {wanted.name} is not loaded and its file {path} {error.problem}",
            f"install the kernel's package again, or remove {path}",
        ) from error
    found = build_id(bytes(note or b""))
    if found != wanted.build_id:
        raise IdentityMismatch(
            payload.name,
            f"was built for module {wanted.name} {wanted.build_id[:16]}, which is not loaded; "
            f"{path} "
            f"{f'is {found[:16]}' if found else 'has no build ID'}",
            f"install the distribution's {wanted.name}, or build the patch for this one",
        )
    return []


def installed_module(name: str, modules: Path) -> Path | None:
    """The file that modprobe would load for a module.

    Args:
        name: the module's name, with underscores.
        modules: the release's folder (``/lib/modules/6.1.0-55-amd64``).
    """
    try:
        lines = (modules / "modules.dep").read_text().splitlines()
        candidates = [modules / line.partition(":")[0] for line in lines]
    except OSError:
        candidates = sorted(modules.rglob("*.ko*"))
    for path in candidates:
        if path.name.partition(".ko")[0].replace("-", "_") == name and path.is_file():
            return path
    return None


def _decompressed(path: Path) -> bytes | None:
    """A module file's bytes; None for a compression that the standard library lacks."""
    import gzip  # both: seldom needed, and start-up time counts
    import lzma

    data = path.read_bytes()
    try:
        match path.suffix:
            case ".ko":
                return data
            case ".xz":
                return lzma.decompress(data)
            case ".gz":
                return gzip.decompress(data)
            case _:
                return None
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise PatchError(str(path), f"is damaged: {error}", "install its package again") from error
