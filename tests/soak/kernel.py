# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels of ``make soak``: the shipped one, and soak.config's, built from Debian's source.

The latter has what distributions leave out because it is slow: KASAN, lockdep, kmemleak, fault
injection.
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

_LAYOUT = 1
"""Another number when this file makes something else of the same configuration and source."""

_OBJECTS = 900
"""About as many files are compiled."""


@dataclass(frozen=True, slots=True)
class SoakKernel:
    """A kernel that modules can be built for.

    Args:
        vmlinuz: its image.
        modules: its ``/lib/modules/RELEASE``.
        build: its build tree, or headers, for modules.
        compiler: kbuild's ``CC``.
        checks: it has what soak.config asks for.
    """

    vmlinuz: Path
    modules: Path
    build: Path
    compiler: str
    checks: bool

    def make_modules(self, folder: Path) -> dict[str, bytes]:
        """Modules by name: the engine, as a person builds it; a payload and its target; defects."""
        engine = folder / "engine"
        shutil.copytree(ROOT / "kmod", engine)
        run(["make", "-C", engine, f"KDIR={self.build}", "ARCH=x86", f"CC={self.compiler}"])
        include = f"LGT_INCLUDE={ROOT / 'kmod/include'}"
        self._make(MODULES, folder / "lgt", include, f"LGT_FIX={'a5' * 32}")
        self._make(HERE / "defect", folder / "defect")
        return {path.stem: path.read_bytes() for path in folder.glob("*/*.ko")}

    def _make(self, source: Path, folder: Path, *variables: str) -> None:
        shutil.copytree(source, folder)
        argv = ["make", "-C", str(self.build), f"M={folder}", "ARCH=x86", f"CC={self.compiler}"]
        run([*argv, *variables, "modules"])


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
    return SoakKernel(image, tree / "modules", build, kernel.compiler, checks=True)


def shipped_kernel(release: str, progress: Progress = SILENT) -> SoakKernel:
    """The kernel as Debian ships it.

    Raises:
        LivegraftError: it cannot be had.
    """
    kernel = prepare(release, progress=progress)
    return SoakKernel(kernel.vmlinuz, kernel.modules, kernel.headers, kernel.compiler, checks=False)


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
