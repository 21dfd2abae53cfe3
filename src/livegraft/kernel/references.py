# SPDX-License-Identifier: GPL-2.0-or-later
"""What a symbol that new code refers to is in the running kernel.

The payload is a module. What vmlinux exports it reaches by an ordinary relocation; everything else
needs a livepatch symbol, which names object, name and position exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from livegraft.changeset import VMLINUX, Target
from livegraft.errors import Reason, Refused
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import ModuleFile, open_module
from livegraft.kernel.shipped import open_shipped
from livegraft.kernel.symbols import RULE, SymbolTable
from livegraft.kernel.symvers import Symvers, read_symvers
from livegraft.progress import SILENT, Progress

_REMEDY = "write the fix so that it does not need this symbol"


class Places(Protocol):
    """Where the symbols of a unit are: what the proof found out."""

    @property
    def unit(self) -> str:
        """The translation unit."""

    @property
    def symbols(self) -> SymbolTable:
        """The symbols of the object that the unit is linked into."""

    @property
    def externals(self) -> Mapping[str, int]:
        """The places that the shipped code has for symbols that others define."""

    def has(self, name: str) -> bool:
        """Whether the unit's own symbol has a place."""

    @property
    def overridden(self) -> Collection[str]:
        """Weak symbols of the unit for which others' definitions are used."""

    def target(self, name: str) -> Target:
        """The unit's own symbol in the running kernel."""


class Resolver:
    """Finds what the symbols of one unit are.

    Args:
        kernel: the kernel.
        places: where the unit's own symbols are.
        progress: gets the steps of what is opened the first time.
    """

    def __init__(self, kernel: Kernel, places: Places, progress: Progress = SILENT) -> None:
        self.kernel = kernel
        self.places = places
        self.owner = places.symbols.object
        self._vmlinux = open_shipped(kernel, VMLINUX, progress).symbols
        self._symvers: Symvers | None = None
        self._modules: dict[str, ModuleFile] = {}

    @property
    def symvers(self) -> Symvers:
        """What the kernel and its modules export."""
        if self._symvers is None:
            self._symvers = read_symvers(self.kernel.build / "Module.symvers")
        return self._symvers

    def local(self, name: str) -> Target:
        """A symbol that the original unit defines, as such: what a function replaces.

        Raises:
            Refused: it has no place in the running kernel, or is weak and another definition is
                used instead of it (rule ``unresolved-reference``).
        """
        return self.places.target(name)

    def referenced(self, name: str) -> Target:
        """What a reference to a symbol means that the original unit defines.

        As :meth:`local`, but a weak symbol may mean another unit's definition.

        Raises:
            Refused: it has no place in the running kernel (rule ``unresolved-reference``).
        """
        if name not in self.places.overridden:
            return self.places.target(name)
        place = self.places.externals.get(name)
        if place is None:
            table = self.places.symbols
            found = [entry.place for entry in table.entries(name) if entry.is_global]
            if len(found) != 1:
                raise _refused(name, f"is weak, and {self.owner} has no other one definition")
            place = found[0]
        return self.places.symbols.target(name, place)

    def external(self, name: str) -> Target | None:
        """A symbol that the unit does not define.

        Returns:
            None if vmlinux exports it, so that an ordinary relocation reaches it; else what it is.

        Raises:
            Refused: there is no such symbol, or it cannot be told which one is meant (rule
                ``unresolved-reference``).
        """
        if self.owner != VMLINUX:
            own = next((e.place for e in self.places.symbols.entries(name) if e.is_global), None)
            if own is not None:
                return self.places.symbols.target(name, own)
        export = self.symvers.get(name)
        if export is None:
            return self._unexported(name)
        if export.owner == VMLINUX:
            # A symbol namespace would have to be imported; a livepatch symbol needs no import.
            return self._unexported(name) if export.namespace else None
        return self._of_module(name, export.owner)

    def _unexported(self, name: str) -> Target:
        """A global symbol of vmlinux that modules cannot link to."""
        place = self.places.externals.get(name) if self.owner == VMLINUX else None
        if place is None:
            entries = self._vmlinux.entries(name)
            # The entry of a per-CPU variable does not tell whether it is global.
            if len(entries) != 1 or entries[0].is_global is not None:
                entries = tuple(entry for entry in entries if entry.is_global)
            if len(entries) != 1:
                how = "no global symbol" if not entries else "several global symbols"
                raise _refused(name, f"vmlinux has {how} of that name")
            place = entries[0].place
        return self._vmlinux.target(name, place)

    def _of_module(self, name: str, module: str) -> Target:
        """A symbol that another module exports."""
        if self.owner == VMLINUX:
            raise _refused(name, f"belongs to the module {module}, which may not be loaded")
        if not self._is_loaded_before(module):
            message = f"belongs to the module {module}, on which {self.owner} does not depend"
            raise _refused(name, message)
        exporter = self._module(module)
        place = exporter.defines(name)
        if place is None:
            raise _refused(name, f"is not in the module {module}, which should export it")
        return exporter.symbols.target(name, place)

    def _is_loaded_before(self, module: str) -> bool:
        """Whether a module is there for as long as the owner is: it depends on it, if not directly.

        ``ums_realtek`` needs ``usb_storage``, which holds ``usbcore`` for its part.
        """
        seen: set[str] = set()
        waiting = [self.owner]
        while waiting:
            for name in self._module(waiting.pop()).depends:
                if name == module:
                    return True
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return False

    def _module(self, name: str) -> ModuleFile:
        if name not in self._modules:
            self._modules[name] = open_module(self.kernel, name)
        return self._modules[name]


def _refused(name: str, message: str) -> Refused:
    return Refused(name, [Reason(RULE, name, message, _REMEDY)])
