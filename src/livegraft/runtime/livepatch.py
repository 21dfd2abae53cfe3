# SPDX-License-Identifier: GPL-2.0-or-later
"""The cores that redirect functions, as sysfs shows them, and the modules that brought the patches.

There are two: the kernel's own, and livegraft's engine, whose directory mirrors the kernel's
(kmod/README.md). A patch is in one of them. Attributes differ between kernels (``replace`` and
``stack_order`` are newer than 6.1): each is looked for, no version is. Source:
Documentation/ABI/testing/sysfs-kernel-livepatch.

A loaded patch needs no state file to be recognised: the kernel marks every livepatch module with
the taint ``K``, also after its patch was disabled, and livegraft's payloads have a read-only
parameter ``livegraft`` = ``FORMAT:SHA-256 of the fix``. Later ones have ``fixes`` too: CVE ids.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime import proctext

MARK = "livegraft"
"""The module parameter by which a loaded payload of livegraft is known."""

MARK_LAYOUT = "1"
"""How its value begins, before a colon."""

FIXES = "fixes"
"""The module parameter that tells what a payload fixes."""

KERNEL_CORE = "sys/kernel/livepatch"
ENGINE = "sys/kernel/livegraft"
"""The directories of the two cores."""

ENGINE_MODULE = "livegraft_engine"
"""The engine's name in the kernel."""

NATIVE = "native"
"""The model of the kernel's own core."""

TAINT_LIVEPATCH = "K"
"""In /sys/module/NAME/taint: kernel/panic.c, ``taint_flags``."""


class LiveObject(NamedTuple):
    """An object of a loaded patch: whether it is patched now, and its functions (name, sympos)."""

    name: str
    patched: bool
    functions: tuple[tuple[str, int], ...]


class LivePatch(NamedTuple):
    """A patch that a core knows at this moment.

    Args:
        name: its module.
        enabled: it is on, or on its way to be.
        transition: tasks are changing sides.
        objects: what it patches.
        stack_order: 1 for the first one, or None on kernels that do not tell.
        replace: it replaces all others, or None on kernels that do not tell.
    """

    name: str
    enabled: bool
    transition: bool
    objects: tuple[LiveObject, ...]
    stack_order: int | None
    replace: bool | None

    @property
    def functions(self) -> frozenset[tuple[str, str]]:
        """Object and name of all functions that it redirects."""
        return frozenset((each.name, name) for each in self.objects for name, _ in each.functions)


class Mark(NamedTuple):
    """What a loaded payload of livegraft says of itself.

    Args:
        fix_sha256: of the fix, hexadecimal; "" if it is of a layout that is not known here.
        cves: CVE ids of what it fixes.
    """

    fix_sha256: str
    cves: tuple[str, ...]


class Livepatches(NamedTuple):
    """The live patches of one core, and the modules of all.

    Args:
        root: where sys/ and proc/ are.
        core: the core's directory below it.
    """

    root: Path = Path("/")
    core: str = KERNEL_CORE

    @property
    def folder(self) -> Path:
        """The core's directory in sysfs."""
        return self.root / self.core

    @property
    def both(self) -> tuple[Livepatches, Livepatches]:
        """The kernel's core and the engine, of the same machine."""
        return Livepatches(self.root), Livepatches(self.root, ENGINE)

    def of(self, name: str) -> Livepatches:
        """The core that a loaded patch is in; a disabled one is in none, and its module tells."""
        for core in self.both:
            if (core.folder / name / "enabled").exists():
                return core
        model = self.parameter(name, "model")
        return Livepatches(self.root, KERNEL_CORE if model in (None, NATIVE) else ENGINE)

    @property
    def modules(self) -> Path:
        """The modules' directory in sysfs."""
        return self.root / "sys/module"

    def require_core(self) -> None:
        """Refuse a kernel that cannot be patched live.

        Raises:
            PatchError: there is no livepatch core.
        """
        if not self.folder.is_dir():
            raise PatchError(
                str(self.folder),
                "does not exist: this kernel has no livepatch core",
                "boot a kernel with CONFIG_LIVEPATCH, as Debian's are, and mount sysfs",
            )

    def get(self, name: str) -> LivePatch | None:
        """A patch, or None if the core does not know one of that name (it may be disabled)."""
        folder = self.folder / name
        enabled = _read(folder / "enabled")
        transition = _read(folder / "transition")
        if enabled is None or transition is None:
            return None
        order, replace = _read(folder / "stack_order"), _read(folder / "replace")
        return LivePatch(
            name,
            enabled == "1",
            transition == "1",
            _objects(folder),
            None if order is None else int(order),
            None if replace is None else replace == "1",
        )

    def in_force(self, name: str) -> bool:
        """Whether the core knows a patch that is on, or on its way to be."""
        patch = self.get(name)
        return patch is not None and patch.enabled

    def in_transition(self, name: str) -> bool | None:
        """Whether tasks are changing sides, or None if the patch is gone. Cheap: one file."""
        text = _read(self.folder / name / "transition")
        return None if text is None else text == "1"

    def attribute(self, name: str, attribute: str) -> str | None:
        """An attribute of a patch, or None if there is none of that name or it is hidden."""
        return _read(self.folder / name / attribute)

    def write(self, place: str, text: str) -> int:
        """Write a file of the core's directory: 0, or the error number."""
        return _write(self.folder / place, text)

    def under_way(self) -> str | None:
        """The patch whose transition is under way; a core has one at a time."""
        for name in self._core_names():
            if self.in_transition(name):
                return name
        return None

    def names(self) -> list[str]:
        """All livepatch modules that are loaded, the newest first; disabled ones as well."""
        loaded = _read(self.root / "proc/modules") or ""
        newest_first = [line.split(" ", 1)[0] for line in loaded.splitlines()]
        kernel, engine = self.both
        known = kernel._core_names()
        others = engine._core_names()
        mine = [
            name
            for name in newest_first
            if name in known or name in others or self.is_livepatch_module(name)
        ]
        orders = {name: kernel.attribute(name, "stack_order") for name in mine}
        if not others and all(orders[name] for name in mine if name in known):
            # Where the kernel tells its order it wins over that of the modules.
            mine.sort(key=lambda name: -int(orders[name] or 0))
        return mine

    def is_loaded(self, module: str) -> bool:
        """Whether a module is there (built-in ones have no ``initstate``)."""
        return (self.modules / module / "initstate").exists()

    def is_livepatch_module(self, module: str) -> bool:
        """Whether a loaded module is a live patch, on or off."""
        return TAINT_LIVEPATCH in (_read(self.modules / module / "taint") or "")

    def is_off(self, module: str) -> bool:
        """Whether a loaded module is a live patch that was undone, by itself or by another one."""
        return self.is_livepatch_module(module) and not self.of(module).in_force(module)

    def parameter(self, module: str, name: str) -> str | None:
        """A module parameter's value, or None if it has none of that name or hides it."""
        return _read(self.modules / module / "parameters" / name)

    def mark(self, name: str) -> Mark | None:
        """What a loaded patch says of itself, or None if livegraft did not build it."""
        text = self.parameter(name, MARK)
        if text is None:
            return None
        layout, _, fix = text.partition(":")
        cves = (self.parameter(name, FIXES) or "").split()
        return Mark(fix if layout == MARK_LAYOUT else "", tuple(cves))

    def can_kick(self, name: str) -> bool:
        """Whether a loaded patch takes kicks."""
        return (self.modules / name / "parameters/kick").exists()

    def kick(self, name: str) -> bool:
        """Run the core's transition work now; False if the module is going away."""
        return _write(self.modules / name / "parameters/kick", "1") == 0

    def looks(self, name: str) -> int | None:
        """How often a loaded patch's ``hasten`` had the core look; None if it cannot do that."""
        text = _read(self.modules / name / "parameters/hasten")
        return None if text is None else int(text)

    def hasten(self, name: str, milliseconds: int) -> bool:
        """Have the core look soon and often, and expedite the grace periods that end an undo.

        Args:
            name: the patch.
            milliseconds: for how long at most (100); returns as soon as the transition is over.

        Returns:
            False if the module is going away.
        """
        return _write(self.modules / name / "parameters/hasten", str(milliseconds)) == 0

    def set_enabled(self, name: str, enabled: bool) -> int:
        """Enable or disable; in a transition this reverses it.

        Returns:
            0, or the error number: EINVAL if it is so already (or cannot be enabled again), EBUSY
            while another patch's transition is under way, ENOENT if it is gone.
        """
        return _write(self.folder / name / "enabled", "1" if enabled else "0")

    def sections(self, module: str) -> list[str]:
        """The names of the sections of a loaded module that are in memory."""
        try:
            return sorted(path.name for path in (self.modules / module / "sections").iterdir())
        except OSError:
            return []

    def _core_names(self) -> set[str]:
        try:
            return {path.name for path in self.folder.iterdir() if path.is_dir()}
        except OSError:
            return set()


def _objects(folder: Path) -> tuple[LiveObject, ...]:
    found = []
    try:
        for path in sorted(folder.iterdir(), key=lambda each: (each.name != "vmlinux", each.name)):
            patched = _read(path / "patched")
            if patched is not None:
                functions = sorted(_function(each.name) for each in path.iterdir() if each.is_dir())
                found.append(LiveObject(path.name, patched == "1", tuple(functions)))
    except OSError:
        pass  # it went away meanwhile: the caller sees that by its other attributes
    return tuple(found)


def _function(directory: str) -> tuple[str, int]:
    """A function's directory is named ``NAME,SYMPOS``: kernel/livepatch/core.c, klp_init_func."""
    name, _, position = directory.rpartition(",")
    return name, int(position)


def _read(path: Path) -> str | None:
    try:
        return proctext.read(path)
    except OSError:
        return None  # ENOENT; or ENODEV, when the object goes between open and read


def _write(path: Path, text: str) -> int:
    """Write a sysfs attribute: 0 or the error number. Python's buffers would hide when it fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        os.close(descriptor)
    return 0
