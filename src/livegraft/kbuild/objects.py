# SPDX-License-Identifier: GPL-2.0-or-later
"""Which translation units the configuration builds, and into which object each is linked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from livegraft.changeset import VMLINUX
from livegraft.kbuild.descent import Descent, descend, directory_goal
from livegraft.kbuild.environment import environment_of
from livegraft.kbuild.target import KernelTree, tree_digest
from livegraft.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Unit:
    """A translation unit of the kernel.

    Args:
        path: the source file (``fs/ext4/mballoc.c``).
        object: ``vmlinux``, or the name of the module that it is linked into (``ext4``).
        module_path: the module's file relative to the source tree (``fs/ext4/ext4.ko``); None for
            vmlinux.
        target: the object file as kbuild spells it, relative to the build tree; with ``..`` where
            a directory builds another's files (``arch/x86/kvm/../../../virt/kvm/kvm_main.o``).
        copies: the same for the other objects that it is linked into as well: there is a copy of
            each function in each.
        is_shared: whether there are other objects.
    """

    path: str
    object: str
    module_path: str | None
    target: str
    copies: tuple[Unit, ...] = ()
    is_shared: bool = False

    @property
    def each(self) -> tuple[Unit, ...]:
        """The unit in each object that it is linked into, one by one."""
        return (replace(self, copies=()), *self.copies)

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.path} in {self.object}" if self.is_shared else self.path

    @property
    def file_name(self) -> str:
        """What files about it are named after: ``fs/ext4/mballoc.c``, with its object if it is in
        several."""
        return f"{self.path}-{self.object}" if self.is_shared else self.path


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object is linked: ``owner`` is vmlinux or a module's ``.o``."""

    owner: str
    spelled: str


def object_of(path: str) -> str:
    """The object file of the source file `path` (``.c`` or ``.S``)."""
    return str(PurePosixPath(path).with_suffix(".o"))


def units_among(
    kernel: KernelTree, paths: Iterable[str], progress: Progress = SILENT
) -> Mapping[str, Unit]:
    """Those of the source files `paths` that this kernel's configuration builds.

    A file is asked for in its own directory and, as kbuild descends, in all directories above
    (fs/xfs/libxfs/xfs_bmap.c is built by fs/xfs/Makefile), then in the few directories that build
    files of others. What the configuration does not enter is not built, and what the distribution
    does not ship is not either. Answers are kept in the cache.

    Args:
        paths: ``.c`` or ``.S`` files relative to the source tree.

    Raises:
        BuildError: kbuild failed.
    """
    wanted = sorted(set(paths))
    if not wanted:
        return {}
    asked = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:16]
    name = kernel.derived(f"kbuild/{tree_digest(kernel)}/built/{asked}.json")

    def ask(path: Path) -> None:
        units = _ask(kernel, wanted, progress)
        path.write_text(json.dumps([asdict(unit) for unit in units]))

    with progress.step("ask kbuild what is built"):
        known = json.loads(kernel.cache.file(name, ask, progress).read_text())
    return {unit.path: unit for unit in map(_kept, known)}


def _kept(fields: dict[str, Any]) -> Unit:
    return Unit(**fields | {"copies": tuple(map(_kept, fields["copies"]))})


def is_shipped(kernel: KernelTree, module: str) -> bool:
    """Whether the distribution ships the module `module` (``fs/ext4/ext4.ko``)."""
    file = kernel.modules / "kernel" / module
    return any(file.with_name(file.name + end).is_file() for end in ("", ".xz", ".zst", ".gz"))


def _ask(kernel: KernelTree, wanted: list[str], progress: Progress) -> list[Unit]:
    goals = sorted({directory_goal(path) for path in wanted})
    places = _places(descend(kernel, goals, progress))
    if any(object_of(path) not in places for path in wanted):
        places = _roaming(kernel, progress) | places
    found = (_unit(kernel, path, places.get(object_of(path), [])) for path in wanted)
    return [unit for unit in found if unit is not None]


def _places(descent: Descent) -> dict[str, list[_Place]]:
    """Where each object is linked, by its plain path."""
    places: dict[str, list[_Place]] = {}

    def add(owner: str, names: Iterable[str]) -> None:
        for name in names:
            places.setdefault(os.path.normpath(name), []).append(_Place(owner, name))

    for directory in descent.directories:
        if directory.in_vmlinux:
            add(VMLINUX, directory.builtin)
        if directory.path in descent.libraries:
            add(VMLINUX, directory.library - directory.builtin)
        if directory.with_modules:
            for module, members in directory.modules.items():
                add(module, members)
    return places


def _roaming(kernel: KernelTree, progress: Progress) -> dict[str, list[_Place]]:
    """Objects that are built by a directory which is not above them.

    virt/kvm is built by arch/x86/kvm, drivers/gpu/drm/amd/display by .../amd/amdgpu. The makefiles
    that can do so hold a ``..`` or include another one.
    """
    name = kernel.derived(f"kbuild/{tree_digest(kernel)}/roaming.json")

    def ask(path: Path) -> None:
        goals = [f"{directory}/.livegraft" for directory in _reaching_out(kernel)]
        places = _places(descend(kernel, goals, progress))
        roaming = {
            plain: [(place.owner, place.spelled) for place in found]
            for plain, found in places.items()
            if any(".." in place.spelled for place in found)
        }
        path.write_text(json.dumps(roaming))

    with progress.step("look for files built from elsewhere"):
        known = json.loads(kernel.cache.file(name, ask, progress).read_text())
    return {plain: [_Place(*pair) for pair in found] for plain, found in known.items()}


def _reaching_out(kernel: KernelTree) -> list[str]:
    architecture = environment_of(kernel)["SRCARCH"]
    reaches = re.compile(rb"\.\./|^\s*-?include\s", re.MULTILINE)
    found = set()
    for folder, folders, files in os.walk(kernel.source):
        here = os.path.relpath(folder, kernel.source)
        if here == ".":
            folders[:] = sorted(set(folders) - {"Documentation", "samples", "scripts", "tools"})
            continue
        if here == "arch":
            folders[:] = [architecture]
        for file in files:
            if file.startswith(("Makefile", "Kbuild")) and reaches.search(
                Path(folder, file).read_bytes()
            ):
                found.add(here)
    return sorted(found)


def _unit(kernel: KernelTree, path: str, places: list[_Place]) -> Unit | None:
    linked = {place.owner: place for place in places}
    units = [
        unit
        for unit in (_linked(path, place) for place in linked.values())
        if unit.module_path is None or is_shipped(kernel, unit.module_path)
    ]
    if not units:
        return None
    if len(units) > 1:
        units = [replace(unit, is_shared=True) for unit in units]
    return replace(units[0], copies=tuple(units[1:]))


def _linked(path: str, place: _Place) -> Unit:
    if place.owner == VMLINUX:
        return Unit(path, VMLINUX, None, place.spelled)
    module = PurePosixPath(place.owner)
    # KBUILD_MODNAME: dashes and commas become underscores (name-fix in Makefile.lib).
    name = module.stem.replace("-", "_").replace(",", "_")
    return Unit(path, name, os.path.normpath(module.with_suffix(".ko")), place.spelled)
