# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own build system makes one module of glue and pieces."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from livegraft.errors import ModuleError, RunFailed
from livegraft.kernel.disk import full_disk
from livegraft.kernel.kernel import Kernel
from livegraft.module import probes
from livegraft.run import run

GLUE = "lg_glue"
SOURCES = {
    "payload.mk": "Kbuild",
    "kmod/include/livegraft_abi.h": "livegraft_abi.h",
    "kmod/include/livegraft_rcu.h": "livegraft_rcu.h",
}
"""Files of this package, and what they are called for kbuild."""

FUNCTION_ARRAY = "lg_funcs_"
"""How the names of the glue's arrays of ``struct klp_func`` begin."""

OPTIONS = ("KCFLAGS=-g0", "CONFIG_DEBUG_INFO_BTF_MODULES=")
"""Debug information holds the folder's name, and from that would come another build ID. Without it
there is nothing to make BTF from, which is left out of the module anyway."""

SECONDS = 600

_COMPLAINT = re.compile(r"\b(warning|error)\b", re.IGNORECASE)

_EXPECTED = (
    # References are undefined on purpose; what is undefined besides is checked by us, by name.
    re.compile(r'^WARNING: modpost: "[^"]+" \[[^]]+\] undefined!$'),
    re.compile(r"^WARNING: modpost: suppressed \d+ unresolved symbol warnings"),
    # Debian's 6.1 calls the same compiler by another name; livegraft.kernel.compiler compared them.
    re.compile(r"^warning: the compiler differs from the one used to build the kernel$"),
    # The core enters new code by changing the address that ftrace returns to, never by an indirect
    # branch: it needs no ENDBR, and gcc gives none to a static function without a pointer to it.
    re.compile(rf"warning: objtool: {FUNCTION_ARRAY}\d+\+0x[0-9a-f]+: data relocation to !ENDBR: "),
)
"""Lines of kbuild's complaints that are no defect, each with its reason."""


def link(
    folder: Path, *, name: str, glue: str, pieces: Mapping[str, bytes], kernel: Kernel
) -> Path:
    """Build the module, without livepatch relocations yet.

    Objtool runs on each piece where kbuild runs it per object, and on the module where it does that
    (payload.mk): on this the kernel's own scripts decide.

    Args:
        folder: a private folder, empty.
        name: the module's name.
        glue: the text of the glue's C file.
        pieces: file name without ending to the object as the compiler made it.
        kernel: the kernel to build for.

    Returns:
        The module's file.

    Raises:
        ModuleError: kbuild failed, or compiler, objtool or modpost complained.
    """
    (folder / f"{GLUE}.c").write_text(glue, "utf-8")
    for source, target in SOURCES.items():
        with as_file(files("livegraft.module") / source) as path:
            shutil.copyfile(path, folder / target)
    for piece, data in pieces.items():
        (folder / f"{piece}.raw").write_bytes(data)
    run_kbuild(_make(folder, name, pieces, kernel), folder, name, _remedy, kernel, OPTIONS)
    return folder / f"{name}.ko"


def run_kbuild(
    argv: Sequence[str],
    folder: Path,
    name: str,
    remedy: Callable[[str], str],
    kernel: Kernel,
    options: Sequence[str] = (),
) -> None:
    """Run kbuild for a module; whatever it warns of is an error.

    Args:
        argv: the command.
        folder: what it works in; left out of what it says.
        name: the module's name.
        remedy: what to do about what it said.
        kernel: the kernel that it builds for.
        options: those of the command that decide what kbuild asks the compiler.

    Raises:
        ModuleError: it failed, or compiler, objtool or modpost complained.
    """
    try:
        done = run(argv, env=probes.environment(kernel, *options), timeout=SECONDS)
    except RunFailed as error:
        said = error.output.replace(f"{folder}/", "")
        if (full := full_disk(name, said)) is not None:
            raise full from error
        raise ModuleError(name, f"kbuild failed:\n{said.strip()}", remedy(said)) from error
    found = complaints((done.stdout + done.stderr).replace(f"{folder}/", ""))
    if found:
        listed = "\n".join(found)
        raise ModuleError(name, f"the kernel's build system complains:\n{listed}", remedy(listed))


def complaints(output: str) -> list[str]:
    """Lines of kbuild's output that are warnings or errors, without the expected ones."""
    lines = [line for line in output.splitlines() if _COMPLAINT.search(line)]
    return [line for line in lines if not any(known.search(line) for known in _EXPECTED)]


def _make(folder: Path, name: str, pieces: Iterable[str], kernel: Kernel) -> list[str]:
    objects = " ".join(f"{piece}.o" for piece in pieces)
    return [
        *(
            "make",
            f"-j{os.cpu_count() or 1}",
            "-C",
            str(kernel.headers),
            f"M={folder}",
            "ARCH=x86",
            f"CC={kernel.compiler}",
        ),
        *(f"LG_NAME={name}", f"LG_PIECES={objects}", "KBUILD_MODPOST_WARN=1"),
        *(*OPTIONS, "modules"),
    ]


def _remedy(output: str) -> str:
    if "objtool" in output:
        return "the kernel cannot unwind through such code: write the fix in another way"
    return "report this fix"
