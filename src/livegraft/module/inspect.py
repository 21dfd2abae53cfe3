# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a built module: its manifest, checked against what the kernel will find in the file.

The manifest is believed in nothing that the file itself can tell. Both have to say the same, or
:class:`~livegraft.errors.ModuleError` says what differs. That is no protection against forgery,
which is the signature's matter: it shows that builder, linker and writer did what was asked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livegraft.elf import header
from livegraft.elf import object as elf
from livegraft.elf.header import Machine
from livegraft.elf.object import ElfObject, Symbol, SymbolType
from livegraft.errors import ElfError, ModuleError
from livegraft.module import klp, manifest
from livegraft.module.glue import mark
from livegraft.module.klp import LivepatchRelocations, Patch, Redirection
from livegraft.module.manifest import SECTION, Document, is_build_id
from livegraft.module.pieces import undefined

PARAMETERS = {"kick": 0o200, "livegraft": 0o444, "model": 0o444}
"""The module parameters that :mod:`livegraft.runtime` relies on, and their permissions."""

LATER_PARAMETERS = {"hasten": 0o600, "fixes": 0o444, "replace": 0o444}
"""Those that the first payloads, which still have to load, do not have."""

_PARAMETER = "__param_"
_PERMISSIONS_AT = 24
"""Offset of ``perm`` in ``struct kernel_param`` (include/linux/moduleparam.h)."""
_VERSION_SIZE = 64
"""``struct modversion_info``: ``unsigned long crc`` and the name (include/linux/module.h)."""

FROM_MANIFEST = (
    *("kernel", "objects", "states", "decisions"),
    *("fix", "method", "edited", "proof", "tool", "compiler", "warnings"),
)
"""What the document of ``inspect`` takes from the manifest."""

REBUILD = "copy the file again, or build it again with 'livegraft build'"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a module holds.

    Args:
        name: the module's name.
        size: the file's size in bytes.
        vermagic: for which kernel the module loader takes it.
        patch: the functions that it redirects, its callbacks and its states.
        references: its livepatch relocations, by owner and target.
        imports: the exported symbols that it uses, and the CRC (``u32``) of each; None where the
            kernel has no ``CONFIG_MODVERSIONS``.
        parameters: its module parameters and their permissions.
        info: the fields of ``.modinfo``; a field may be there many times.
        manifest: what it says of itself, which agrees with the rest.
    """

    name: str
    size: int
    vermagic: str
    patch: Patch
    references: tuple[LivepatchRelocations, ...]
    imports: Mapping[str, int | None]
    parameters: Mapping[str, int]
    info: Mapping[str, tuple[str, ...]]
    manifest: Mapping[str, Any]

    @property
    def redirections(self) -> tuple[Redirection, ...]:
        """The functions that it redirects."""
        return self.patch.redirections

    @property
    def relocations(self) -> dict[str, int]:
        """How many livepatch relocations there are, by the object whose coming they wait for."""
        counts: dict[str, int] = {}
        for each in self.references:
            counts[each.owner] = counts.get(each.owner, 0) + each.count
        return counts

    def as_json(self) -> dict[str, object]:
        """The document of ``inspect``."""
        targets = dict.fromkeys(each.target for each in self.references)
        return {
            "name": self.name,
            "size": self.size,
            "vermagic": self.vermagic,
            "references": [
                {"object": each.object, "name": each.name, "sympos": each.sympos}
                for each in sorted(targets, key=lambda each: (each.object, each.name, each.sympos))
            ],
            "relocations": self.relocations,
            "exports": sorted(self.imports),
        } | {key: self.manifest[key] for key in FROM_MANIFEST}


def inspect_module(path: Path) -> Inspection:
    """Read and check a module's file.

    Raises:
        ModuleError: it cannot be read, is truncated, not a module, not of livegraft, or says
            something of itself that is not so.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModuleError(
            str(path), f"cannot be read: {error.strerror}", "check the path"
        ) from error
    return inspect_bytes(data, str(path))


def inspect_bytes(data: bytes, subject: str) -> Inspection:
    """:func:`inspect_module` for a file's contents; `subject` is what to call it."""
    try:
        file = header.parse(data, subject)
        raw, info = _raw_manifest(file, subject), modinfo(file)
        obj = elf.parse(data, subject)
    except ElfError as error:
        raise ModuleError(subject, error.problem, REBUILD) from error
    document = manifest.decode(raw, subject)
    try:
        found = Inspection(
            info["name"][0],
            len(data),
            info["vermagic"][0],
            klp.patch(obj),
            klp.livepatch_relocations(obj),
            _imports(obj),
            _parameters(obj),
            info,
            {key: document[key] for key in (*FROM_MANIFEST, "format", "name", "references")},
        )
        _check_info(found)
        _check_functions(found)
        _check_callbacks(found)
        _check_states(found)
        _check_references(found)
        _check_mark(found, obj)
    except (LookupError, TypeError, ValueError, AttributeError, struct.error, ElfError) as error:
        problem = f"its manifest or its structures are incomplete ({error!r})"
        raise ModuleError(subject, problem, REBUILD) from error
    except ModuleError as error:
        raise ModuleError(subject, f"{error.subject}: {error.problem}", REBUILD) from error
    return found


def modinfo(file: header.File) -> dict[str, tuple[str, ...]]:
    """All fields of a module's ``.modinfo``."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in bytes(file.section_data(".modinfo") or b"").split(b"\0"):
        key, equals, value = entry.decode("utf-8", "replace").partition("=")
        if equals:
            found[key] = (*found.get(key, ()), value)
    return found


def _raw_manifest(file: header.File, subject: str) -> bytes:
    if file.machine != Machine.X86_64:
        raise ModuleError(subject, f"is for another machine (ELF machine {file.machine})", REBUILD)
    if file.section(".gnu.linkonce.this_module") is None or file.section(".modinfo") is None:
        raise ModuleError(subject, "is not a kernel module", "name a file of 'livegraft build'")
    raw = file.section_data(SECTION)
    if raw is None:
        problem = "is a kernel module that livegraft did not build"
        raise ModuleError(subject, problem, "name a file of 'livegraft build'")
    return bytes(raw)


def _imports(obj: ElfObject) -> dict[str, int | None]:
    """Undefined symbols and their CRCs of ``__versions``.

    Raises:
        ModuleError: one has no CRC although the module has that section.
    """
    number = obj.section_number("__versions")
    names = set(undefined(obj))
    if number is None:
        return dict.fromkeys(names)
    data = obj.sections[number].data
    crcs = {}
    for at in range(0, len(data) - _VERSION_SIZE + 1, _VERSION_SIZE):
        (crc,) = struct.unpack_from("<Q", data, at)
        name = data[at + 8 : at + _VERSION_SIZE].partition(b"\0")[0]
        crcs[name.decode("utf-8", "replace")] = crc
    missing = names - set(crcs)
    if missing:
        raise ModuleError(
            min(missing), "is undefined and has no CRC: the kernel does not export it"
        )
    return {name: crcs[name] for name in names}


def _parameters(obj: ElfObject) -> dict[str, int]:
    section = obj.section_number("__param")
    if section is None:
        return {}
    data = obj.sections[section].data
    return {
        symbol.name.removeprefix(_PARAMETER): struct.unpack_from(
            "<H", data, symbol.value + _PERMISSIONS_AT
        )[0]
        for symbol in obj.symbols
        if symbol.section == section and symbol.type == SymbolType.OBJECT
    }


def _check_info(found: Inspection) -> None:
    says, info = found.manifest, found.info
    expected = {
        "livepatch": "Y",
        "license": "GPL",
        "name": says["name"],
        "depends": "",
        "livegraft": mark(says["fix"]["sha256"]),
    }
    for field, value in expected.items():
        if info.get(field) != (value,):
            problem = f"the module says {info.get(field)}, and {value!r} is expected"
            raise ModuleError(f"field {field} of .modinfo", problem)
    release = found.vermagic.partition(" ")[0]
    if release != says["kernel"]["release"]:
        wanted = says["kernel"]["release"]
        raise ModuleError("vermagic", f"is for {release}, and the manifest is for {wanted}")
    known = PARAMETERS | LATER_PARAMETERS
    if not PARAMETERS.items() <= found.parameters.items() <= known.items():
        raise ModuleError("parameters", f"are {dict(found.parameters)} and not {known}")


def _check_functions(found: Inspection) -> None:
    says = {
        (each["name"], function["name"], function["sympos"], function["symbol"])
        for each in found.manifest["objects"]
        for function in each["functions"]
        if function["state"] == "changed"
    }
    does = {
        (each.target.object, each.target.name, each.target.sympos, each.symbol)
        for each in found.redirections
    }
    if says != does or len(does) != len(found.redirections):
        different = sorted(says ^ does) or sorted(does)
        raise ModuleError(
            "functions", f"the manifest and struct klp_patch differ in {_listed(different)}"
        )
    for each in found.manifest["objects"]:
        if not is_build_id(each["build_id"]):
            raise ModuleError(each["name"], f"{each['build_id']!r} is not a build ID")
    if not is_build_id(found.manifest["kernel"]["build_id"]):
        raise ModuleError("kernel", "the manifest has no build ID of it")


def _check_callbacks(found: Inspection) -> None:
    """The rows of an object's callbacks are its files, in the manifest's order."""
    says = set()
    for each in found.manifest["objects"]:
        callbacks = each.get("callbacks", [])  # the first modules of this format had none
        units = list(dict.fromkeys(callback["unit"] for callback in callbacks))
        for callback in callbacks:
            row = units.index(callback["unit"])
            says.add((each["name"], row, callback["kind"], callback["symbol"]))
    does = {(each.object, each.row, str(each.kind), each.symbol) for each in found.patch.callbacks}
    if says != does:
        different = _listed(sorted(says ^ does))
        raise ModuleError("callbacks", f"the manifest and struct klp_object differ in {different}")


def _check_states(found: Inspection) -> None:
    says = {(each["id"], each["version"]) for each in found.manifest["states"]}
    does = {(each.id, each.version) for each in found.patch.states}
    if says != does:
        different = _listed(sorted(says ^ does))
        raise ModuleError("states", f"the manifest and struct klp_patch differ in {different}")


def _check_references(found: Inspection) -> None:
    says = {_reference(row) for row in found.manifest["references"]}
    does = {
        (each.owner, each.target.object, each.target.name, each.target.sympos, each.count)
        for each in found.references
    }
    if says != does:
        different = _listed(sorted(says ^ does))
        raise ModuleError(
            "references", f"the manifest and the livepatch relocations differ in {different}"
        )


def _reference(row: Document) -> tuple[str, str, str, int, int]:
    return (row["owner"], row["object"], row["name"], row["sympos"], row["count"])


def _check_mark(found: Inspection, obj: ElfObject) -> None:
    """What the loaded module will say of itself."""
    fix = found.manifest["fix"]
    _check_told(obj, "lg_mark", mark(fix["sha256"]))
    if fix["cves"] or "fixes" in found.parameters:
        _check_told(obj, "lg_fixes", " ".join(fix["cves"]))


def _check_told(obj: ElfObject, name: str, wanted: str) -> None:
    symbols: list[Symbol] = [each for each in obj.symbols if each.name == name]
    if len(symbols) != 1:
        raise ModuleError(name, f"is there {len(symbols)} times")
    symbol = symbols[0]
    data = obj.sections[symbol.section].data[symbol.value : symbol.value + symbol.size]
    if data != wanted.encode() + b"\0":
        raise ModuleError(name, f"says {data!r}, and the manifest says {wanted!r}")


def _listed(rows: list[tuple[Any, ...]]) -> str:
    shown = [" ".join(map(str, row)) for row in rows[:3]]
    return ", ".join(shown) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
