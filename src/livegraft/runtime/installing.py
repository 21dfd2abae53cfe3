# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep a patch for the next boots of its kernel: completely, or not at all.

A patch is made whole in a folder of its own (``.new``) and then given its place. One that has the
place already is exchanged for it in the same moment. Whatever a loss of power leaves in ``.new`` is
removed by the next change.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError, UsageError
from livegraft.runtime import durable, identity, installed, lock, switches, trusting
from livegraft.runtime.installed import (
    FORMAT,
    LARGEST,
    MARKER,
    NAME,
    PLACE,
    RECORD,
    RELEASE,
    ROOT,
    Installed,
    Record,
    Trial,
)
from livegraft.runtime.model import ModelName, Options, model_named
from livegraft.runtime.payload import REBUILD, Manifest, Payload
from livegraft.trust import appended, detached, owned
from livegraft.trust.verification import Signer

LOCK = "run/livegraft-installed.lock"
"""Below the root. A disk may be read-only, and this is none."""

SECONDS = 30.0
"""For how long another change is waited for."""

NEW = ".new"
"""What is being made, or removed; no release begins with a dot."""

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "mount it so that it can be written",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
}


class Kept(NamedTuple):
    """A patch that was installed.

    Args:
        patch: as it is kept.
        replaced: one of this name was installed for this kernel before.
        signers: who has signed it.
        warnings: what the user should know.
    """

    patch: Installed
    replaced: bool
    signers: tuple[Signer, ...]
    warnings: tuple[str, ...]


def install(
    path: Path,
    *,
    model: str = ModelName.NATIVE,
    replacing: bool = False,
    order: int | None = None,
    root: Path = ROOT,
) -> Kept:
    """Keep a patch, to be loaded at each boot of its kernel.

    What :func:`livegraft.runtime.loading.load` would refuse because of the file is refused here.

    Args:
        path: the module's file; its detached signatures lie beside it.
        model: the consistency model.
        replacing: it undoes every older patch of the same core in the same change.
        order: patches of lower order are loaded before it; after all others by default.
        root: where etc/, var/ and the like are.

    Raises:
        PatchError: it is no live patch of livegraft, its model cannot do what is asked, it is the
            one that the machine crashed with, whoever has signed it since, or it cannot be written.
        Untrusted: its signatures are not enough here, or others can write where it is kept.
        IdentityMismatch: it was built for another build of its kernel or of a module.
    """
    payload = Payload.read(path, foreign=True)
    manifest = _require_nameable(payload)
    trust = trusting.check(path, payload.data, root)
    model_named(model).accept(payload, Options(replacing))
    warnings = (*trust.warnings, *_identity(payload, manifest, root))
    for each in switches.off(root):
        warnings += (f"it will not be loaded as long as live patches are off: {each.problem}",)
    signatures = {
        f"{payload.name}.ko{name.removeprefix(path.name)}": data
        for name, data in detached.find(path)
    }
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = Record(
        model, replacing, 0, payload.sha256, manifest.fix_sha256, now, manifest.kernel_build_id
    )
    with _changing(payload.name, root) as store:
        others = installed.installed(root, manifest.release)
        before = next((each for each in others if each.name == payload.name), None)
        same = before if before and _is_same_code(before, payload, store, root) else None
        if same:
            _require_well(same, root)
        record = record._replace(order=_order(order, others, before))
        files = {f"{payload.name}.ko": payload.data, RECORD: _encoded(record.as_json())}
        if same and same.trial:
            files[MARKER] = encoded_trial(same.trial)
        replaced = _put(store, manifest.release, payload.name, files | signatures, root)
    folder = root / PLACE / manifest.release / payload.name
    patch = Installed(manifest.release, payload.name, folder, record)
    return Kept(patch, replaced, trust.signers, warnings)


def uninstall(name: str, release: str | None = None, root: Path = ROOT) -> Installed:
    """Keep a patch no more. If it is loaded it stays so.

    Args:
        name: the patch.
        release: the kernel that it is for; needed only if there are several.
        root: where var/ is.

    Returns:
        What was there.

    Raises:
        UsageError: it is installed for several kernels.
        PatchError: it is not installed, or cannot be removed.
    """
    find(name, release, root)
    with _changing(name, root) as store:
        patch = find(name, release, root)
        place = root / PLACE / patch.release
        with owned.inside(place, store) as kernel:
            if kernel is not None:
                os.rename(name, NEW, src_dir_fd=kernel, dst_dir_fd=store)
                os.fsync(kernel)
                os.fsync(store)
        # It is uninstalled; what is left to do, the next change does if this one cannot.
        with suppress(OSError):
            durable.remove(store, NEW)
            os.rmdir(patch.release, dir_fd=store)
    return patch


def enable_again(name: str, release: str | None = None, root: Path = ROOT) -> Installed:
    """Let a patch be loaded again that the machine crashed with.

    Args:
        name: the patch.
        release: the kernel that it is for; needed only if there are several.
        root: where var/ is.

    Raises:
        UsageError: it is installed for several kernels.
        PatchError: it is not installed, nothing keeps it out, or its marker cannot be removed.
    """
    find(name, release, root)
    with _changing(name, root) as store:
        patch = find(name, release, root)
        if patch.problem is not None:
            raise patch.problem
        if not patch.crashed(root):
            raise PatchError(name, "nothing keeps it from being loaded", "see: livegraft list")
        with opened_patch(patch, store, root) as folder:
            durable.remove(folder, MARKER)
            os.fsync(folder)
    return patch._replace(trial=None)


def find(name: str, release: str | None = None, root: Path = ROOT) -> Installed:
    """An installed patch.

    Raises:
        UsageError: it is installed for several kernels, and none was named.
        PatchError: it is not installed.
    """
    found = [each for each in installed.installed(root, release) if each.folder.name == name]
    if not found:
        where = f" for {release}" if release else ""
        raise PatchError(name, f"no such patch is installed{where}", "'livegraft list' lists them")
    if len(found) > 1:
        several = ", ".join(each.release for each in found)
        raise UsageError(name, f"is installed for {several}", "say which one: -k RELEASE")
    return found[0]


@contextmanager
def opened_patch(patch: Installed, store: int, root: Path) -> Iterator[int]:
    """The descriptor of a patch's folder, by that of the folder that holds all.

    Raises:
        PatchError: it is gone.
    """
    with owned.inside(root / PLACE / patch.release, store) as kernel:
        if kernel is not None:
            with owned.inside(patch.folder, kernel) as folder:
                if folder is not None:
                    yield folder
                    return
    raise PatchError(patch.name, "was uninstalled meanwhile", "'livegraft list' lists them")


@contextmanager
def only_changer(name: str, root: Path) -> Iterator[None]:
    """Be the only one who changes what is installed, or loads it at boot.

    Raises:
        PatchError: another one does not come to an end.
    """
    with lock.alone(name, SECONDS, root / LOCK, "is changing the installed patches"):
        yield


def encoded_trial(trial: Trial) -> bytes:
    """A marker's file."""
    return _encoded({"boot_id": trial.boot_id, "since": trial.since})


@contextmanager
def _changing(name: str, root: Path) -> Iterator[int]:
    """The folder that holds the patches, made if need be, for one change; errors are told."""
    base = (root / PLACE).parents[1]
    with only_changer(name, root), writing(root), owned.folder(base) as lib:
        if lib is None:
            raise PatchError(str(base), "does not exist", "make it, as root")
        durable.make_folder(lib, base.joinpath("livegraft").name)
        with owned.inside(base / "livegraft", lib) as own:
            assert own is not None
            durable.make_folder(own, (root / PLACE).name)
            with owned.inside(root / PLACE, own) as store:
                assert store is not None
                durable.remove(store, NEW)
                yield store


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Tell what keeps the patches' folder from being written.

    Raises:
        PatchError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
        remedy = _REMEDIES.get(error.errno or 0, "repair it")
        raise PatchError(str(root / PLACE), problem, remedy) from error


def _put(store: int, release: str, name: str, files: dict[str, bytes], root: Path) -> bool:
    """A patch's folder in its place; whether there was one."""
    try:
        os.mkdir(NEW, 0o700, dir_fd=store)
        with owned.inside(root / PLACE / NEW, store) as new:
            assert new is not None
            for each, data in files.items():
                durable.write_new(new, each, data)
            os.fchmod(new, durable.FOLDER_MODE)
            os.fsync(new)
        durable.make_folder(store, release)
        with owned.inside(root / PLACE / release, store) as kernel:
            assert kernel is not None
            return durable.put(store, NEW, kernel, name)
    finally:
        # What is there now was not finished, or is what this one has taken the place of.
        with suppress(OSError):
            durable.remove(store, NEW)


def _require_nameable(payload: Payload) -> Manifest:
    """Refuse what cannot be kept under its name, or without knowing for which kernel."""
    subject = str(payload.path)
    manifest = payload.manifest
    if manifest is None:
        problem = "livegraft did not build it, and nothing says which kernel it is for"
        raise PatchError(subject, problem, "build it: livegraft build FIX -k RELEASE")
    if not re.fullmatch(NAME, payload.name):
        raise PatchError(subject, f"has the impossible module name {payload.name!r}", REBUILD)
    if not re.fullmatch(RELEASE, manifest.release):
        raise PatchError(subject, f"is for the impossible kernel {manifest.release!r}", REBUILD)
    return manifest


def _identity(payload: Payload, manifest: Manifest, root: Path) -> tuple[str, ...]:
    """Compare it with its kernel, as far as that is there; what could not be compared."""
    if manifest.release == installed.running_release():
        return identity.check(payload, root, manifest.release).warnings
    warnings = identity.check_installed(payload, manifest, root)
    if not installed.is_kernel_installed(manifest.release, root):
        return (*warnings, f"its kernel {manifest.release} is not installed here")
    return (*warnings, f"whether it is for this build of {manifest.release} is seen at boot")


def _is_same_code(before: Installed, payload: Payload, store: int, root: Path) -> bool:
    """Whether two are one module but for the signature at its end, which crashes no machine."""
    if before.problem is not None:
        return False
    with opened_patch(before, store, root) as folder:
        kept = owned.read(before.path, folder, LARGEST)
    contents = (appended.split(each or b"", before.name)[0] for each in (kept, payload.data))
    return len(set(contents)) == 1


def _require_well(before: Installed, root: Path) -> None:
    if before.crashed(root):
        since = before.trial.since if before.trial else ""
        raise PatchError(
            before.name,
            f"the same code is installed, and is not loaded any more: the machine crashed within "
            f"minutes after it was loaded at {since}",
            f"to try it once more: livegraft install --again {before.name} -k {before.release}",
        )


def _order(wanted: int | None, others: list[Installed], before: Installed | None) -> int:
    """The place in the order: as asked for, as before, or the last."""
    if wanted is not None:
        return wanted
    if before is not None and before.record is not None:
        return before.record.order
    return max((each.record.order for each in others if each.record), default=0) + 1


def _encoded(document: dict[str, object]) -> bytes:
    return (json.dumps({"format": FORMAT, **document}, indent=1) + "\n").encode()
