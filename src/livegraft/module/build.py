# SPDX-License-Identifier: GPL-2.0-or-later
"""From a change set to a kernel module: glue, kbuild, livepatch relocations, manifest."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from livegraft.changeset import VMLINUX, ChangeSet, Reference, State, Target
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.elf.header import SectionType
from livegraft.elf.object import ElfObject, Section
from livegraft.errors import ModuleError, RunFailed
from livegraft.module import manifest
from livegraft.module.livepatch_relocations import write_livepatch
from livegraft.module.manifest import Identity, Provenance
from livegraft.progress import SILENT, Progress
from livegraft.run import run

LONGEST_NAME = 55
"""Characters of a module's name (MODULE_NAME_LEN, less its NUL)."""

CORE_SYMBOLS = ("klp_transition_patch", "klp_transition_work")
"""kernel/livepatch/transition.c: what the parameter ``kick`` needs; each is there once."""

_BUILD_SECONDS = 300
_UNWANTED = (".comment", ".note.GNU-stack", ".debug", ".rela.debug", ".BTF", ".eh_frame")


class TargetKernel(Protocol):
    """A prepared kernel, seen from here."""

    @property
    def release(self) -> str: ...

    @property
    def headers(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Module:
    """A finished module.

    Args:
        name: the module's name.
        data: the file's bytes.
        relocations: how many livepatch relocations it has.
    """

    name: str
    data: bytes
    relocations: int


def build_module(
    changes: ChangeSet,
    *,
    name: str,
    kernel: TargetKernel,
    identity: Identity,
    provenance: Provenance,
    is_exported: Callable[[str], bool],
    positions: Mapping[str, int],
    progress: Progress = SILENT,
) -> Module:
    """Link the pieces into a livepatch module.

    Args:
        changes: what to build.
        name: the module's name, see :func:`module_name`.
        kernel: for its release and its headers.
        identity: for exactly what the patch is made.
        provenance: from what it is made.
        is_exported: whether vmlinux exports a name.
        positions: how many symbols of each name of :data:`CORE_SYMBOLS` the kernel has.
        progress: told of the steps.

    Raises:
        ModuleError: kbuild or objtool complains, or a symbol would stay undefined.
    """
    check_name(name)
    references = _references(changes, positions)
    with progress.step("build module"), tempfile.TemporaryDirectory(prefix="livegraft-") as folder:
        place = Path(folder)
        _write_sources(place, changes, name, kernel.release, provenance)
        _run_kbuild(place, kernel)
        obj = elf.read(place / f"{name}.ko")
    obj = without_unwanted(obj)
    moved = write_livepatch(obj, references)
    _check_undefined(obj, name, is_exported)
    document = manifest.manifest(name, changes, identity, provenance)
    obj.add_section(Section(manifest.SECTION, data=manifest.encode(document)))
    return Module(name, writer.write(obj), moved)


def module_name(stem: str) -> str:
    """A module's name from a fix's file name: ``CVE-2026-1.patch`` -> ``livegraft_cve_2026_1``."""
    slug = re.sub(r"[^a-z0-9]+", "_", Path(stem).stem.lower()).strip("_") or "fix"
    return f"livegraft_{slug}"[:LONGEST_NAME].rstrip("_")


def check_name(name: str) -> None:
    """Refuse a name that cannot be a module's.

    Raises:
        ModuleError: it is too long or has other characters than ``a-z``, ``0-9`` and ``_``.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > LONGEST_NAME:
        raise ModuleError(
            name,
            "cannot be the name of a live patch",
            f"use at most {LONGEST_NAME} characters of a-z, 0-9 and _, beginning with a letter",
        )


def _references(changes: ChangeSet, positions: Mapping[str, int]) -> dict[str, Reference]:
    references = {each.symbol: each for piece in changes.pieces for each in piece.references}
    for name in CORE_SYMBOLS:
        if positions.get(name) != 1:
            raise ModuleError(
                name,
                f"is in this kernel {positions.get(name, 0)} times, once is expected",
                "report this kernel",
            )
        references[name] = Reference(name, VMLINUX, Target(VMLINUX, name, 1))
    return references


def _write_sources(
    place: Path, changes: ChangeSet, name: str, release: str, provenance: Provenance
) -> None:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    def render(template: str, **values: object) -> str:
        text = files("livegraft.module").joinpath(template).read_text("utf-8")
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        return environment.from_string(text).render(values)

    objects = [
        {
            "name": each,
            "functions": [
                {"name": f.target.name, "sympos": f.target.sympos, "symbol": f.symbol}
                for f in changes.functions
                if f.target.object == each and f.state is State.CHANGED
            ],
        }
        for each in changes.objects
    ]
    glue = render(
        "glue.c.in",
        name=name,
        release=release,
        version=provenance.version,
        fix_sha256=provenance.fix_sha256,
        objects=[each for each in objects if each["functions"]],
    )
    pieces = [f"piece{number}" for number in range(len(changes.pieces))]
    (place / "glue.c").write_text(glue)
    (place / "Kbuild").write_text(render("Kbuild.in", name=name, pieces=pieces))
    (place / "livegraft_abi.h").write_text(
        files("livegraft.module").joinpath("livegraft_abi.h").read_text("utf-8")
    )
    for piece, file in zip(changes.pieces, pieces, strict=True):
        (place / f"{file}.raw").write_bytes(piece.data)


def _run_kbuild(place: Path, kernel: TargetKernel) -> None:
    argv = ["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(kernel.headers), f"M={place}"]
    # The references are undefined on purpose; what else may be is checked afterwards, name by name.
    # -g0: no debug information, so no path of this machine either.
    argv += ["KBUILD_MODPOST_WARN=1", "KCFLAGS=-g0", "modules"]
    try:
        done = run(argv, timeout=_BUILD_SECONDS, env={"SOURCE_DATE_EPOCH": "0"})
    except RunFailed as error:
        text = error.output.replace(f"{place}/", "")
        raise ModuleError("kbuild", f"failed:\n{text.strip()}", "report the fix") from error
    complaints = [
        line.replace(f"{place}/", "")
        for line in (done.stdout + done.stderr).splitlines()
        if "objtool:" in line
    ]
    if complaints:
        raise ModuleError(
            "objtool", "cannot follow the new code:\n" + "\n".join(complaints), "report the fix"
        )


def without_unwanted(obj: ElfObject) -> ElfObject:
    """The object without sections that nobody needs at run time (comments, debug information)."""
    gone = {
        number
        for number, section in enumerate(obj.sections)
        if section.name.startswith(_UNWANTED) and not section.is_alloc
    }
    numbers = {
        old: new for new, old in enumerate(n for n in range(len(obj.sections)) if n not in gone)
    }
    dropped = {n for n, symbol in enumerate(obj.symbols) if symbol.section in gone}
    kept = [n for n in range(len(obj.symbols)) if n not in dropped]
    renumbered = np.zeros(len(obj.symbols), dtype="u4")
    renumbered[kept] = np.arange(len(kept), dtype="u4")
    result = ElfObject(obj.machine, obj.byte_order, obj.flags)
    result.sections = [section for n, section in enumerate(obj.sections) if n not in gone]
    result.symbols = [obj.symbols[n] for n in kept]
    for symbol in result.symbols:
        if symbol.in_section:
            symbol.section = numbers[symbol.section]
    for section in result.sections:
        section.link = numbers.get(section.link, 0)
        if section.type == SectionType.RELA:
            section.info = numbers[section.info]
        used = section.relocations["symbol"]
        if len(used):
            if dropped.intersection(used.tolist()):
                raise ModuleError(section.name, "refers to a section that is to be dropped")
            section.relocations = section.relocations.copy()
            section.relocations["symbol"] = renumbered[used]
    return result


def _check_undefined(obj: ElfObject, name: str, is_exported: Callable[[str], bool]) -> None:
    missing = sorted(
        symbol.name
        for symbol in obj.symbols[1:]
        if symbol.is_undefined and not is_exported(symbol.name)
    )
    if missing:
        raise ModuleError(
            name,
            f"would have undefined symbols: {', '.join(missing)}",
            "report the fix; the kernel would refuse this module",
        )
