# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules and programs of ``witness/``, built for a kernel, and where they lie in a guest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path

from livegraft.errors import ModuleError, RunFailed
from livegraft.kernel.disk import full_disk
from livegraft.kernel.kernel import Kernel
from livegraft.lab.package import PLACE
from livegraft.module import engine, probes
from livegraft.module.link import OPTIONS
from livegraft.progress import SILENT, Progress
from livegraft.run import run

FOLDER = "witness"
ENGINE = f"/ko/{engine.NAME}.ko"
PROGRAMS = {"lgc_hammer": "hammer", "lgc_probe": "probe"}
"""Sources of programs, and what they are called in ``/root``."""

PACKAGE = ("lab/__init__.py", "lab/witness")
"""Parts of this package that a guest gets besides the runtime."""


def witnesses(kernel: Kernel, progress: Progress = SILENT) -> dict[str, bytes | Path]:
    """Files for a guest, by their path there: modules below ``/ko``, the engine among them, and
    programs in ``/root``; the package's own part is where the runtime is.

    Args:
        kernel: the prepared kernel.
        progress: told of the steps.

    Raises:
        ModuleError: they do not build for this kernel.
        CacheError: the disk is full.
    """
    built = build(kernel, progress)
    found: dict[str, bytes | Path] = {f"/ko/{each.name}": each for each in built.glob("*.ko")}
    found |= {f"/root/{name}": built / name for name in PROGRAMS.values()}
    found[ENGINE] = engine.build_engine(kernel, progress)
    return found | package_files()


def package_files() -> dict[str, bytes | Path]:
    """The package's own part for such guests, by its path there."""
    root = files("livegraft")
    return {f"/{PLACE}/{name}": root.joinpath(name).read_bytes() for name in _package()}


def _package() -> Iterator[str]:
    for part in PACKAGE:
        entry = files("livegraft") / part
        if entry.is_dir():
            yield from (f"{part}/{one.name}" for one in entry.iterdir() if one.name[-3:] == ".py")
        else:
            yield part


def build(kernel: Kernel, progress: Progress = SILENT) -> Path:
    """The folder of the modules and programs, made once for their sources and this kernel.

    Raises:
        ModuleError: they do not build for this kernel.
        CacheError: the disk is full.
    """
    found = _sources()
    what = (kernel.release, kernel.source_version, sorted(found.items()))
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    entry = kernel.derived(f"witness/{key}")
    return kernel.cache.tree(entry, partial(_build, found, kernel, progress), progress)


def _sources() -> dict[str, bytes]:
    root = files(__package__) / FOLDER
    sources = (one for one in root.iterdir() if one.name.endswith((".c", ".h", "Kbuild")))
    header = files("livegraft.module").joinpath(engine.FOLDER, "include/livegraft_abi.h")
    return {one.name: one.read_bytes() for one in (*sources, header)}


def _build(sources: dict[str, bytes], kernel: Kernel, progress: Progress, folder: Path) -> None:
    for name, data in sources.items():
        (folder / name).write_bytes(data)
    modules: list[str | Path] = [
        *("make", f"-j{os.cpu_count() or 1}", "-C", kernel.headers, f"M={folder}", "ARCH=x86"),
        *(f"CC={kernel.compiler}", f"LGT_INCLUDE={folder}", *OPTIONS, "modules"),
    ]
    flags = ("-static", "-O2", "-Wall", "-Werror", "-pthread")
    with progress.step("build test modules"):
        try:
            run(modules, env=probes.environment(kernel, *OPTIONS), timeout=600)
            for source, name in PROGRAMS.items():
                run([kernel.compiler, *flags, folder / f"{source}.c", "-o", folder / name])
        except RunFailed as error:
            if (full := full_disk(FOLDER, error.output)) is not None:
                raise full from error
            said = error.output.strip()
            raise ModuleError(FOLDER, f"does not build for {kernel.release}:\n{said}") from error
