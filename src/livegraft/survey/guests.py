# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that a worker keeps from one module to the next, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

from livegraft.errors import Exit, LivegraftError, LostGuest
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest, GuestCommandFailed
from livegraft.lab.modules import ModuleFolder
from livegraft.survey.objectfile import Elf, without_init
from livegraft.survey.running import (
    PER_CPU,
    Running,
    per_cpu_base,
    running_kernel,
    running_module,
)

TURNS = 24
"""Modules per guest: enough to make up for its start, few enough that its memory suffices."""

STARTS = 4
"""How often a guest is started that does not come up because this machine is too busy."""

DRIVER = "/root/in_guest.py"
_READ = """
import sys
sys.path.insert(0, "/root")
from in_guest import Memory
print(Memory().read(int(sys.argv[1]), int(sys.argv[2])).hex())
"""

_MEMORY_MIB = 2048
_BOOT_SECONDS = 240.0


class GuestNotUp(LivegraftError):
    """No guest came up: this machine is too busy, and no module is to blame."""

    exit_code = Exit.LOST


class Inhabited:
    """A guest that is up, its kernel's symbols, and the modules in it that are to be patched.

    Args:
        guest: the guest.
        folder: the kernel's modules.
    """

    def __init__(self, guest: Guest, folder: ModuleFolder) -> None:
        self.guest = guest
        self.folder = folder
        self.turns = 0
        self.inert: set[str] = set()
        """Modules whose init function was left out, because they do not come up with it."""

    @cached_property
    def symbols(self) -> Running:
        """Where the symbols of vmlinux are."""
        return running_kernel(self.guest.get("/proc/kallsyms").decode("utf-8", "replace"))

    def running(self, module: str, sections: Mapping[str, int]) -> Running:
        """A module that is loaded.

        Args:
            sections: where its sections are, as far as sysfs tells.
        """
        content = self.folder.content(module)
        if PER_CPU in Elf.read(content).names:
            # Listing all symbols takes an emulated kernel seconds.
            lines = self.guest.run(["grep", "-F", f"[{module}]", "/proc/kallsyms"])
            base = per_cpu_base(content, lines.text)
            sections = {**sections, **({} if base is None else {PER_CPU: base})}
        return running_module(content, sections)

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address of the kernel; fewer where none are mapped."""
        done = self.guest.check(["python3", "-c", _READ, str(address), str(size)])
        return bytes.fromhex(done.text)

    def bring(self, module: str) -> None:
        """Insert a module that is to be patched, and what it needs.

        A driver may not come up without its hardware. What a live patch is about is its code and
        its data, and they are in place without its init function as well: so it is left out then.
        """
        for name in self.guest.lacking(module):
            content = self.folder.content(name)
            try:
                self.guest.insert(name, content)
                here = self._is_here(name)
            except GuestCommandFailed:
                here = False
            if not here:
                self._bring_inert(name, content)

    def _bring_inert(self, name: str, content: bytes) -> None:
        try:
            self.guest.insert(name, without_init(content))
        except GuestCommandFailed:
            return  # the patch waits for it, and it is counted as absent
        self.inert.add(name)

    def _is_here(self, name: str) -> bool:
        """Whether a module stayed: one that answers EEXIST ("there already") may be gone."""
        return self.guest.run(["test", "-d", f"/sys/module/{name}/sections"]).status == 0


class KeptGuest:
    """The guest of a worker process; another takes its place when it is given up or worn out.

    Args:
        kernel: what runs in it.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._stack = ExitStack()
        self._inhabited: Inhabited | None = None

    def up(self) -> Inhabited:
        """The guest, started if need be.

        Raises:
            GuestNotUp: it does not come up.
        """
        if self._inhabited is not None and self._inhabited.turns >= TURNS:
            self.give_up()
        if self._inhabited is None:
            self._inhabited = Inhabited(self._started(), _modules(self._kernel.modules))
        self._inhabited.turns += 1
        return self._inhabited

    def give_up(self) -> None:
        """End the guest; what is in it may no longer be as it should."""
        self._inhabited = None
        self._stack.close()

    def _started(self) -> Guest:
        driver = resources.files(__package__).joinpath("in_guest.py").read_bytes()
        for left in reversed(range(STARTS)):
            try:
                return self._stack.enter_context(
                    boot(
                        self._kernel.vmlinuz,
                        self._kernel.modules,
                        memory_mib=_MEMORY_MIB,
                        files={DRIVER: driver},
                        timeout=_BOOT_SECONDS,
                        cache=self._kernel.cache,
                    )
                )
            except LostGuest as error:
                if not left:
                    raise GuestNotUp(error.subject, error.problem, error.remedy) from error
        raise AssertionError("STARTS is 1 or more")


@lru_cache(maxsize=1)
def _modules(path: Path) -> ModuleFolder:
    """The kernel's modules, listed once per process."""
    return ModuleFolder(path)
