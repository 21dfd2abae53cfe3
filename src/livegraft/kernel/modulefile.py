# SPDX-License-Identifier: GPL-2.0-or-later
"""A module as the distribution ships it."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from livegraft.elf import header
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.errors import ImageError, KernelError
from livegraft.kernel.buildid import build_id_in
from livegraft.kernel.compression import unpack
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.symbols import ModuleSymbols

_ENDINGS = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_EXPORT = "__ksymtab_"


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """One shipped ``.ko``.

    Args:
        name: as the kernel calls it (``nf_conntrack``).
        path: the file, packed as shipped.
        build_id: hexadecimal, as in ``/sys/module/NAME/notes/.note.gnu.build-id``.
        info: the fields of ``.modinfo``; a field may be there many times.
        object: the relocatable object.
        symbols: its symbols as the livepatch core counts them.
    """

    name: str
    path: Path
    build_id: str
    info: dict[str, tuple[str, ...]]
    object: ElfObject
    symbols: ModuleSymbols

    @property
    def depends(self) -> tuple[str, ...]:
        """The modules that are loaded before it; modpost writes them with the dashes of files."""
        listed = self.info.get("depends", ("",))[0].replace("-", "_")
        return tuple(name for name in listed.split(",") if name)

    @property
    def exports(self) -> frozenset[str]:
        """The symbols that it exports (``__ksymtab_NAME``, include/linux/export.h)."""
        return frozenset(
            symbol.name.removeprefix(_EXPORT)
            for symbol in self.object.symbols
            if symbol.name.startswith(_EXPORT) and symbol.in_section
        )

    def defines(self, name: str) -> int | None:
        """The place of the global symbol `name` that the module defines, or None."""
        entries = self.symbols.entries(name)
        return next((entry.place for entry in entries if entry.is_global), None)


def open_module(kernel: Kernel, name: str) -> ModuleFile:
    """A module that the kernel's package ships.

    Args:
        name: the module's name; dashes count as underscores.

    Raises:
        KernelError: the package has no module of that name.
        ImageError: the file is damaged.
    """
    path = find_module(kernel, name)
    packed = path.read_bytes()
    if path.suffix == ".ko":
        return parse_module(packed, path)
    kept = kernel.derived(f"code/modules/{module_name(path)}-{zlib.crc32(packed):08x}.ko")

    def build(target: Path) -> None:
        target.write_bytes(unpack(packed, str(path)))

    return parse_module(kernel.cache.file(kept, build).read_bytes(), path)


def find_module(kernel: Kernel, name: str) -> Path:
    """The file of a module.

    Raises:
        KernelError: there is none.
    """

    def build(target: Path) -> None:
        target.write_text(json.dumps(_index(kernel.modules)), "utf-8")

    index = kernel.cache.file(kernel.derived(f"code/modules-{kernel.source_version}.json"), build)
    places: dict[str, str] = json.loads(index.read_text("utf-8"))
    place = places.get(name.replace("-", "_"))
    if place is None:
        raise KernelError(name, f"{kernel.release} ships no such module", "see 'modinfo'")
    return kernel.modules / place


def module_name(path: Path) -> str:
    """The name of a module by its file: dashes become underscores (``KBUILD_MODNAME``)."""
    return path.name.partition(".ko")[0].replace("-", "_")


def parse_module(data: bytes, path: Path) -> ModuleFile:
    """A module from its unpacked bytes.

    Raises:
        ElfError: no relocatable object.
        ImageError: it is not the module that its file name says, or has no build ID.
    """
    subject = str(path)
    file = header.parse(data, subject)
    build_id = build_id_in(file)
    info = _modinfo(bytes(file.section_data(".modinfo") or b""))
    name = info.get("name", ("",))[0]
    if name != module_name(path) or file.section(".gnu.linkonce.this_module") is None:
        raise ImageError(subject, f"is not the module {module_name(path)}", "fetch it again")
    if build_id is None:
        raise ImageError(subject, "has no build ID", "it cannot be told from another build")
    module = elf.parse(data, subject)
    return ModuleFile(name, path, build_id, info, module, ModuleSymbols(name, module))


def _modinfo(data: bytes) -> dict[str, tuple[str, ...]]:
    info: dict[str, tuple[str, ...]] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\0"):
        key, equals, value = line.partition("=")
        if equals:
            info[key] = (*info.get(key, ()), value)
    return info


def _index(modules: Path) -> dict[str, str]:
    index: dict[str, str] = {}
    for path in sorted((modules / "kernel").rglob("*.ko*")):
        if path.name.endswith(_ENDINGS):
            name = module_name(path)
            if name in index:
                raise KernelError(name, f"is there twice: {index[name]} and {path}")
            index[name] = str(path.relative_to(modules))
    return index
