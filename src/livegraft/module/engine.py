# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's module, built for one kernel: kmod/ of the project, made by its own Makefile.

A person and DKMS call the same Makefile, so there is one way to build it, and the same bytes come
of the same sources wherever they lie.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from livegraft.changeset import VMLINUX
from livegraft.elf import object as elf
from livegraft.elf.header import SHN_LIVEPATCH
from livegraft.elf.object import ElfObject
from livegraft.errors import ModuleError
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.shipped import open_shipped
from livegraft.module.link import run_kbuild
from livegraft.module.livepatch_relocations import SYMBOL_PREFIX
from livegraft.progress import SILENT, Progress

NAME = "livegraft_engine"
"""The module's name."""

FOLDER = "kmod"
"""Where its sources are, below this one: a link to the folder of that name."""

_FILES = (
    *("Kbuild", "Makefile", "relocate.py", "unexported.txt"),
    *("include/livegraft_abi.h", "include/livegraft_rcu.h"),
)
_SUFFIXES = (".c", ".h", ".S")
_MADE = ".mod.c"
"""What kbuild leaves in a folder in which somebody has built."""

_REMEDY = "livegraft is not made for this kernel: report it"


def build_engine(kernel: Kernel, progress: Progress = SILENT) -> Path:
    """The engine's module for a kernel, unsigned; made once for its sources and this kernel.

    Args:
        kernel: the prepared kernel.
        progress: gets the step ``build engine``.

    Returns:
        The file, in the cache.

    Raises:
        ModuleError: the kernel's build system fails or complains, or the kernel lacks a symbol that
            the engine needs.
        CacheError: the disk is full.
    """
    found = sources()
    entry = kernel.derived(f"engine/{_key(found, kernel)}/{NAME}.ko")

    def build(path: Path) -> None:
        with progress.step("build engine"), _temporary() as name:
            module = make(Path(name).resolve(), found, kernel)
            check_symbols(elf.parse(module.read_bytes(), NAME), kernel, progress)
            shutil.copyfile(module, path)

    return kernel.cache.file(entry, build, progress)


def sources() -> dict[str, bytes]:
    """The engine's sources by their path in kmod/."""
    root = files("livegraft.module") / FOLDER
    names = [*_FILES, *sorted(each.name for each in root.iterdir() if _is_source(each))]
    return {name: root.joinpath(name).read_bytes() for name in names}


def make(folder: Path, found: Mapping[str, bytes], kernel: Kernel) -> Path:
    """Build the module in a folder.

    Args:
        folder: a private folder, empty.
        found: what :func:`sources` returns.
        kernel: the prepared kernel.

    Returns:
        The module's file.

    Raises:
        ModuleError: the kernel's build system fails or complains.
    """
    for name, content in found.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    argv = [
        *("make", f"-j{os.cpu_count() or 1}", "-C", str(folder)),
        *(f"KDIR={kernel.headers}", f"PYTHON={sys.executable}"),
        *("ARCH=x86", f"CC={kernel.compiler}"),
    ]
    run_kbuild(argv, folder, NAME, lambda said: _REMEDY, kernel)
    return folder / f"{NAME}.ko"


def check_symbols(module: ElfObject, kernel: Kernel, progress: Progress = SILENT) -> None:
    """The kernel has each symbol that is not exported exactly once, or it would not load.

    Raises:
        ModuleError: it lacks one, or has several of the name.
    """
    symbols = open_shipped(kernel, VMLINUX, progress).symbols
    prefix = f"{SYMBOL_PREFIX}{VMLINUX}."
    for symbol in module.symbols:
        if symbol.section == SHN_LIVEPATCH:
            name = symbol.name.removeprefix(prefix).partition(",")[0]
            count = len(symbols.places(name))
            if count != 1:
                problem = f"is in {kernel.release} {count} times, and the engine needs one"
                raise ModuleError(name, problem, _REMEDY)


def _is_source(entry: Traversable) -> bool:
    return entry.name.endswith(_SUFFIXES) and not entry.name.endswith(_MADE)


def _key(found: Mapping[str, bytes], kernel: Kernel) -> str:
    """What decides the module's bytes."""
    compiler = kernel.config.get("CONFIG_CC_VERSION_TEXT")
    what = (kernel.release, kernel.source_version, compiler, sorted(found.items()))
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="livegraft-engine-")
