# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a built live patch, trusting nothing: the manifest has to say what the ELF file holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from livegraft.changeset import VMLINUX, State, Target
from livegraft.elf import object as elf
from livegraft.elf.header import SHN_LIVEPATCH, SectionType
from livegraft.elf.object import ElfObject, Symbol
from livegraft.errors import ElfError, ModuleError
from livegraft.module.build import CORE_SYMBOLS
from livegraft.module.livepatch_relocations import SECTION_PREFIX
from livegraft.module.manifest import FORMAT, SECTION

_SYMBOL = re.compile(r"\.klp\.sym\.([^.]{1,55})\.([^,]{1,511}),(\d+)")
_REBUILD = "copy the file again, or build it again with 'livegraft build'"


@dataclass(frozen=True, slots=True)
class Redirection:
    """A function that the module redirects, as its ``struct klp_func`` says."""

    target: Target
    symbol: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a live patch holds.

    Args:
        name: the module's name.
        size: the file's size in bytes.
        vermagic: for which kernel the module loader takes it.
        redirections: what it redirects.
        references: what it refers to in the running kernel.
        relocations: how many livepatch relocations it has, by object whose coming they wait for.
        exports: undefined symbols: what it needs of vmlinux's exports.
        manifest: the whole manifest.
    """

    name: str
    size: int
    vermagic: str
    redirections: tuple[Redirection, ...]
    references: tuple[Target, ...]
    relocations: Mapping[str, int]
    exports: tuple[str, ...]
    manifest: Mapping[str, object]

    def as_json(self) -> dict[str, object]:
        """The document of ``inspect``."""
        return {
            "name": self.name,
            "size": self.size,
            "vermagic": self.vermagic,
            "kernel": self.manifest["kernel"],
            "objects": self.manifest["objects"],
            "references": [_target(each) for each in self.references],
            "relocations": dict(self.relocations),
            "exports": list(self.exports),
            "fix": self.manifest["fix"],
            "method": self.manifest["method"],
            "proof": self.manifest["proof"],
            "tool": self.manifest["tool"],
            "compiler": self.manifest["compiler"],
            "warnings": self.manifest["warnings"],
        }


def inspect_module(path: Path) -> Inspection:
    """Read a live patch and compare its manifest with what it holds.

    Raises:
        ModuleError: it is no live patch of livegraft's, is damaged, or contradicts itself.
    """
    try:
        data = path.read_bytes()
        obj = elf.parse(data, str(path))
    except OSError as error:
        raise ModuleError(
            str(path), f"cannot be read: {error.strerror}", "check the path"
        ) from error
    except ElfError as error:
        raise ModuleError(str(path), error.problem, _REBUILD) from error
    info = _modinfo(obj)
    if info.get("livepatch") != "Y":
        raise ModuleError(
            str(path), "is not a live patch", "name a file that 'livegraft build' made"
        )
    document = _manifest(obj, str(path))
    found = Inspection(
        info.get("name", ""),
        len(data),
        info.get("vermagic", ""),
        tuple(_redirections(obj, str(path))),
        tuple(_references(obj, str(path))),
        _relocations(obj),
        tuple(sorted(s.name for s in obj.symbols[1:] if s.is_undefined)),
        document,
    )
    _check(found, str(path))
    return found


def _check(found: Inspection, subject: str) -> None:
    said = {
        (each["name"], function["name"], function["sympos"], function["symbol"])
        for each in _list(found.manifest["objects"])
        for function in _list(each["functions"])
        if function["state"] == State.CHANGED
    }
    held = {(r.target.object, r.target.name, r.target.sympos, r.symbol) for r in found.redirections}
    _compare(subject, "redirected functions", said, held)
    core = {(VMLINUX, name, 1) for name in CORE_SYMBOLS}
    said_references = {
        (each["object"], each["name"], each["sympos"])
        for each in _list(found.manifest["references"])
    }
    held_references = {(t.object, t.name, t.sympos) for t in found.references}
    _compare(subject, "references", said_references | core, held_references)
    kernel = found.manifest["kernel"]
    assert isinstance(kernel, dict)
    for what, says, holds in (
        ("name", found.manifest["name"], found.name),
        ("kernel release", kernel["release"], found.vermagic.split(" ")[0]),
    ):
        if says != holds:
            raise ModuleError(
                subject, f"its manifest says {what} {says}, the module itself {holds}", _REBUILD
            )


def _compare(
    subject: str, what: str, said: set[tuple[object, ...]], held: set[tuple[object, ...]]
) -> None:
    odd = sorted(map(str, said ^ held))
    if odd:
        raise ModuleError(
            subject, f"its manifest and its {what} differ: {', '.join(odd[:3])}", _REBUILD
        )


def _manifest(obj: ElfObject, subject: str) -> Mapping[str, object]:
    number = obj.section_number(SECTION)
    if number is None:
        raise ModuleError(
            subject, "was not built by livegraft: it has no manifest", "name a file that it made"
        )
    try:
        document = json.loads(obj.sections[number].data)
        known = document["format"] == FORMAT
        keys = ("name", "kernel", "objects", "references", "fix", "method", "proof", "tool")
        document = {key: document[key] for key in (*keys, "compiler", "warnings")}
    except (ValueError, KeyError, TypeError) as error:
        raise ModuleError(subject, f"its manifest is damaged: {error!r}", _REBUILD) from error
    if not known:
        raise ModuleError(subject, "its manifest has an unknown format", "use a newer livegraft")
    return document


def _redirections(obj: ElfObject, subject: str) -> list[Redirection]:
    objects = _array(obj, "lg_objects")
    found = []
    for name, functions in zip(_object_names(obj, objects), _function_arrays(obj), strict=False):
        found += [
            Redirection(Target(name, *_old(obj, functions, at)), _new(obj, functions, at))
            for at in _entries(obj, functions)
        ]
    if not found:
        raise ModuleError(subject, "redirects no function", _REBUILD)
    return found


def _function_arrays(obj: ElfObject) -> list[Symbol]:
    listed = [each for each in obj.symbols if each.name.startswith("lg_funcs_")]
    return sorted(listed, key=lambda each: int(each.name.removeprefix("lg_funcs_")))


def _array(obj: ElfObject, name: str) -> Symbol:
    for symbol in obj.symbols:
        if symbol.name == name and symbol.in_section:
            return symbol
    raise ModuleError(name, "is not in the module", _REBUILD)


def _pointers(obj: ElfObject, array: Symbol) -> dict[int, tuple[Symbol, int]]:
    """Offset in the array -> what is pointed to there."""
    entries = obj.sections[array.section].relocations
    inside = (entries["offset"] >= array.value) & (entries["offset"] < array.value + array.size)
    return {
        int(each["offset"]) - array.value: (obj.symbols[int(each["symbol"])], int(each["addend"]))
        for each in entries[inside]
    }


def _entries(obj: ElfObject, functions: Symbol) -> list[int]:
    """Offsets of the entries of a ``struct klp_func`` array: each has its old_name first."""
    offsets = sorted(_pointers(obj, functions))
    return offsets[0::2]


def _old(obj: ElfObject, functions: Symbol, at: int) -> tuple[str, int]:
    """old_name and old_sympos (include/linux/livepatch.h: struct klp_func)."""
    name = _string(obj, *_pointers(obj, functions)[at])
    start = functions.value + at + 16
    data = obj.sections[functions.section].data[start : start + 8]
    return name, int.from_bytes(data, "little")


def _new(obj: ElfObject, functions: Symbol, at: int) -> str:
    return _pointers(obj, functions)[at + 8][0].name


def _object_names(obj: ElfObject, objects: Symbol) -> list[str]:
    """struct klp_object: name (NULL for vmlinux), funcs."""
    pointers = _pointers(obj, objects)
    arrays = sorted(
        at for at, (symbol, addend) in pointers.items() if _points_to_functions(obj, symbol, addend)
    )
    return [
        _string(obj, *pointers[at - 8]) if at - 8 in pointers and at - 8 not in arrays else VMLINUX
        for at in arrays
    ]


def _points_to_functions(obj: ElfObject, symbol: Symbol, addend: int) -> bool:
    place = symbol.value + addend
    return any(
        each.section == symbol.section and each.value == place for each in _function_arrays(obj)
    )


def _string(obj: ElfObject, symbol: Symbol, addend: int) -> str:
    data = obj.sections[symbol.section].data
    start = symbol.value + addend
    return data[start : data.index(b"\0", start)].decode("utf-8", "replace")


def _references(obj: ElfObject, subject: str) -> list[Target]:
    found = []
    for symbol in obj.symbols:
        match = _SYMBOL.fullmatch(symbol.name)
        if (symbol.section == SHN_LIVEPATCH) != bool(match):
            raise ModuleError(subject, f"has the odd livepatch symbol {symbol.name!r}", _REBUILD)
        if match:
            found.append(Target(match[1], match[2], int(match[3])))
    return sorted(found, key=lambda each: (each.object, each.name, each.sympos))


def _relocations(obj: ElfObject) -> dict[str, int]:
    counts: dict[str, int] = {}
    for section in obj.sections:
        if section.type == SectionType.RELA and section.name.startswith(SECTION_PREFIX):
            owner = section.name.removeprefix(SECTION_PREFIX).partition(".")[0]
            counts[owner] = counts.get(owner, 0) + len(section.relocations)
    return dict(sorted(counts.items()))


def _modinfo(obj: ElfObject) -> dict[str, str]:
    number = obj.section_number(".modinfo")
    found: dict[str, str] = {}
    for entry in (obj.sections[number].data if number else b"").split(b"\0"):
        key, separator, value = entry.decode("utf-8", "replace").partition("=")
        if separator:
            found.setdefault(key, value)
    return found


def _list(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise ModuleError("manifest", f"{value!r} is not a list", _REBUILD)
    return value


def _target(target: Target) -> dict[str, object]:
    return {"object": target.object, "name": target.name, "sympos": target.sympos}
