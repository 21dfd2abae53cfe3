# SPDX-License-Identifier: GPL-2.0-or-later
"""From a change set to a live patch module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from livegraft.changeset import ChangeSet, Reference, State, Target
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.elf.object import ElfObject, Section
from livegraft.errors import ModuleError
from livegraft.kernel import entrance
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.symvers import read_symvers
from livegraft.module import glue, ibt
from livegraft.module.glue import KERNEL_SYMBOLS, RESOLVER_SYMBOLS
from livegraft.module.inspect import Inspection, inspect_bytes
from livegraft.module.link import link
from livegraft.module.livepatch_relocations import write_relocations
from livegraft.module.manifest import SECTION, Identity, Provenance, encode, make_manifest
from livegraft.module.name import check_name, module_name
from livegraft.module.pieces import Linkable, make_linkable, require_exported, undefined
from livegraft.module.trim import drop_unloaded_sections
from livegraft.progress import SILENT, Progress

__all__ = ["KERNEL_SYMBOLS", "Module", "build_module", "check_name", "module_name"]

UNWIND_TABLE = ".orc_unwind_ip"


@dataclass(frozen=True, slots=True)
class Module:
    """A finished module, read back and found to be what was asked for.

    Args:
        name: the module's name.
        data: the file's bytes.
        relocations: how many livepatch relocations it has.
        inspection: what it holds.
    """

    name: str
    data: bytes
    relocations: int
    inspection: Inspection


def build_module(
    changes: ChangeSet,
    *,
    name: str,
    kernel: Kernel,
    identity: Identity,
    provenance: Provenance,
    is_exported: Callable[[str], bool],
    positions: Mapping[str, int],
    cold: Collection[Target],
    progress: Progress = SILENT,
) -> Module:
    """Build a live patch module. Writing it to a file is the caller's.

    Args:
        changes: what it is made of.
        name: the module's name; see :mod:`livegraft.module.name`.
        kernel: the prepared kernel that it is for.
        identity: the builds that it is for.
        provenance: what it is made from.
        is_exported: whether vmlinux exports a name.
        positions: how many symbols of each name of :data:`KERNEL_SYMBOLS` the kernel has.
        cold: the changed functions that have a cold part in the kernel.
        progress: gets the step ``build module``.

    Raises:
        UsageError: the name is impossible.
        ModuleError: the change set contradicts itself, or the kernel's build system complains.
        ElfError: a piece is damaged.
    """
    check_name(name)
    with progress.step("build module"):
        linkable = make_linkable(changes, is_exported)
        references = dict(linkable.references) | glue.references(positions)
        resolves = glue.resolves_itself(positions)
        obj = _linked(changes, linkable, name, kernel, provenance, resolves)
        drop_unloaded_sections(obj)
        _check_imports(obj, references, is_exported, name)
        _check_unwinding(obj, changes, kernel)
        counts = write_relocations(obj, references, RESOLVER_SYMBOLS if resolves else None)
        document = make_manifest(
            changes,
            name=name,
            identity=identity,
            provenance=provenance,
            references=references,
            counts=counts,
            cold=cold,
        )
        obj.add_section(Section(SECTION, data=encode(document)))
        data = writer.write(obj)
        inspection = inspect_bytes(data, f"{name}.ko")
        if kernel.config.enabled(entrance.SETTING):
            ibt.check_module(elf.parse(data, f"{name}.ko"), entrance.Entrances(kernel, progress))
    return Module(name, data, sum(counts.values()), inspection)


def _linked(
    changes: ChangeSet,
    linkable: Linkable,
    name: str,
    kernel: Kernel,
    provenance: Provenance,
    resolves: bool,
) -> ElfObject:
    text = glue.render(
        changes,
        name=name,
        description=f"Live patch for {kernel.release}",
        version=provenance.version,
        fix_sha256=provenance.fix_sha256,
        namespaces=_namespaces(linkable, kernel),
        resolves=resolves,
        cves=provenance.advisory.cves,
    )
    with tempfile.TemporaryDirectory(prefix="livegraft-module-") as folder:
        module = link(
            Path(folder).resolve(), name=name, glue=text, pieces=linkable.objects, kernel=kernel
        )
        return elf.parse(module.read_bytes(), name)


def _namespaces(linkable: Linkable, kernel: Kernel) -> tuple[str, ...]:
    """The symbol namespaces that a module has to import to use what the pieces need."""
    symvers = read_symvers(kernel.headers / "Module.symvers")
    exports = map(symvers.get, linkable.imported)
    return tuple(sorted({each.namespace for each in exports if each and each.namespace}))


def _check_imports(
    obj: ElfObject,
    references: Mapping[str, Reference],
    is_exported: Callable[[str], bool],
    name: str,
) -> None:
    """What the linked module needs besides references is exported by the kernel itself.

    The pieces were looked at before; glue, objtool and modpost may have added something.
    """
    for symbol in undefined(obj):
        if symbol not in references:
            require_exported(symbol, is_exported, name)


def _check_unwinding(obj: ElfObject, changes: ChangeSet, kernel: Kernel) -> None:
    """Each new function has unwind data, without which no transition away from it ever ends.

    Raises:
        ModuleError: objtool was not run on a piece, or left a function out.
    """
    if not kernel.config.enabled("CONFIG_UNWINDER_ORC"):
        return
    number = obj.section_number(UNWIND_TABLE)
    first: dict[int, int] = {}
    if number is not None:
        for entry in obj.sections[number].relocations:
            symbol = obj.symbols[int(entry["symbol"])]
            place = symbol.value + int(entry["addend"])
            first[symbol.section] = min(place, first.get(symbol.section, place))
    wanted = {f.symbol for f in changes.functions if f.state is State.CHANGED}
    wanted |= {callback.symbol for callback in changes.callbacks}
    for symbol in obj.symbols:
        # An entry holds until the next one, so one in front (at the call padding) will do.
        if symbol.name in wanted and symbol.value < first.get(symbol.section, symbol.value + 1):
            raise ModuleError(symbol.name, "objtool has made no unwind data for it")
