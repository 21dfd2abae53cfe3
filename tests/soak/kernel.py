# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of ``make soak``: soak.config's, from Debian's source, made once.

It has what distributions leave out because it is slow: KASAN, lockdep, kmemleak, fault injection.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from livegraft.errors import BuildError
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.progress import SILENT, Progress
from livegraft.run import run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "soak.config"
MODULES = ROOT / "tests/guest/runtime_modules"
PAYLOADS = ("lgt_payload", "lgt_target")

_LAYOUT = 1
"""Another number when this file makes something else of the same configuration and source."""

_OBJECTS = 900
"""About as many files are compiled."""


@dataclass(frozen=True, slots=True)
class SoakKernel:
    """A kernel that was built here.

    Args:
        vmlinuz: its image.
        modules: its ``/lib/modules/RELEASE``.
        build: its build tree, for modules.
        compiler: kbuild's ``CC``.
    """

    vmlinuz: Path
    modules: Path
    build: Path
    compiler: str

    def make_engine(self, folder: Path) -> bytes:
        """The engine, built as a person builds it."""
        shutil.copytree(ROOT / "kmod", folder)
        run(["make", "-C", folder, f"KDIR={self.build}", "ARCH=x86", f"CC={self.compiler}"])
        return (folder / "livegraft_engine.ko").read_bytes()

    def make_payloads(self, folder: Path) -> dict[str, bytes]:
        """The payload that was written by hand, and the module that it patches."""
        shutil.copytree(MODULES, folder)
        argv = ["make", "-C", str(self.build), f"M={folder}", "ARCH=x86", f"CC={self.compiler}"]
        run([*argv, f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={'a5' * 32}", "modules"])
        return {name: (folder / f"{name}.ko").read_bytes() for name in PAYLOADS}


def soak_kernel(release: str, progress: Progress = SILENT) -> SoakKernel:
    """The kernel, from the source package that `release` is made of.

    Raises:
        BuildError: it cannot have a setting of soak.config.
        RunFailed: it does not compile.
        LivegraftError: its source cannot be had.
    """
    kernel = prepare(release, progress=progress)
    what = (_LAYOUT, CONFIG.read_bytes(), kernel.source_version, kernel.compiler)
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    def make(path: Path) -> None:
        with progress.step("build soak kernel", _OBJECTS) as step:
            _build(kernel, path / "build", step.advance)
        (path / "modules").mkdir()
        for module in (path / "build").rglob("*.ko"):
            shutil.copyfile(module, path / "modules" / module.name)
        for name in ("modules.builtin", "modules.order"):
            shutil.copyfile(path / "build" / name, path / "modules" / name)

    tree = kernel.cache.tree(f"soak/{key}", make, progress)
    build = tree / "build"
    image = build / "arch/x86/boot/bzImage"
    return SoakKernel(image, tree / "modules", build, kernel.compiler)


def _build(kernel: Kernel, path: Path, compiled: Callable[[], None]) -> None:
    """Configure and compile in an empty folder."""
    path.mkdir()
    make = ["make", "-C", str(kernel.source), f"O={path}", "ARCH=x86", f"CC={kernel.compiler}"]
    run([*make, f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig"])
    _require_configured(path / ".config")

    def line(text: str) -> None:
        if text.lstrip().startswith("CC "):
            compiled()

    # Nice: it takes both processors for minutes.
    run(["nice", "-n", "5", *make, f"-j{os.cpu_count()}", "bzImage", "modules"], on_line=line)


def _require_configured(made: Path) -> None:
    """kbuild drops what a kernel does not have, or cannot have, and says nothing."""
    have = set(made.read_text().splitlines())
    lacking = [each for each in CONFIG.read_text().splitlines() if each not in have]
    lacking = [each for each in lacking if each and not each.startswith("#")]
    if lacking:
        raise BuildError(str(CONFIG), f"not settings of this kernel: {' '.join(lacking)}", "")
