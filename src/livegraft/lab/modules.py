# SPDX-License-Identifier: GPL-2.0-or-later
"""Which module files a kernel's ``/lib/modules/RELEASE`` folder holds, and what each one needs.

An unpacked package has no ``modules.dep`` (depmod runs when it is installed), so dependencies come
from the modules themselves: the fields ``depends=``, ``softdep=`` and ``alias=`` of the section
``.modinfo`` (include/linux/module.h, ``MODULE_INFO``). Only modules that are
asked for are read.
"""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Iterable
from pathlib import Path

from livegraft.elf import header
from livegraft.errors import UsageError

SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")
"""Debian ships 6.1 plain and 6.12 xz-compressed. Guests get them plain: less work for them."""


class ModuleFolder:
    """The modules of one kernel, by name.

    Args:
        folder: ``/lib/modules/RELEASE``, or the same inside an unpacked package.

    Raises:
        UsageError: there are no modules in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _module_files(folder)
        if not self._files:
            raise UsageError(str(folder), "holds no modules", "name a /lib/modules/RELEASE folder")
        self._built_in = _built_in(folder)
        self._contents: dict[str, bytes] = {}

    def closure(self, names: Iterable[str]) -> list[str]:
        """`names` and all that they need, each after what it needs; built-in ones left out.

        Raises:
            UsageError: the kernel has no module of that name, nor is it built in.
        """
        order: list[str] = []
        for name in names:
            self._visit(canonical(name), order, ())
        return order

    def content(self, name: str) -> bytes:
        """The module as the kernel takes it: decompressed."""
        name = canonical(name)
        if name not in self._contents:
            self._contents[name] = _decompressed(self._files[name])
        return self._contents[name]

    def _visit(self, name: str, order: list[str], above: tuple[str, ...]) -> None:
        if name in order or name in above or name in self._built_in:
            return
        if name not in self._files:
            raise UsageError(
                name,
                f"the kernel {self.folder.name} has no such module",
                f"choose one below {self.folder}",
            )
        for needed in self._needs(name):
            self._visit(needed, order, (*above, name))
        order.append(name)

    def _needs(self, name: str) -> list[str]:
        fields = modinfo(self.content(name), name)
        needs = [canonical(word) for text in fields.get("depends", []) for word in text.split(",")]
        for text in fields.get("softdep", []):
            for word in _before(text):
                needs += self._providers(word)
        return [each for each in needs if each]

    def _providers(self, word: str) -> list[str]:
        """What a soft dependency asks for: a module, or an alias such as ``crypto-crc32c``.

        The crypto core's aliases are the algorithm's name, and modules that provide an algorithm
        are named after it: crc32c_generic, crc32c-intel. So these few are looked at, not 4,000.
        """
        name = canonical(word)
        if name in self._files or name in self._built_in:
            return [name]
        stem = name.removeprefix("crypto_")
        near = [each for each in (*self._files, *self._built_in) if each.startswith(stem)]
        if any(each in self._built_in for each in near):
            return []
        return [each for each in sorted(near) if name in self._aliases(each)]

    def _aliases(self, name: str) -> set[str]:
        fields = modinfo(self.content(name), name)
        return {canonical(alias) for alias in fields.get("alias", [])}


def canonical(name: str) -> str:
    """A module's name as the kernel writes it: of ``snd-hda.ko`` it is ``snd_hda``."""
    return name.partition(".ko")[0].replace("-", "_")


def modinfo(module: bytes, subject: str) -> dict[str, list[str]]:
    """The fields of a module's section ``.modinfo``.

    Args:
        module: the whole file, decompressed.
        subject: what to call it in an error.

    Raises:
        ElfError: it is no ELF object.
        UsageError: it has no such section.
    """
    data = header.parse(module, subject).section_data(".modinfo")
    if data is None:
        raise UsageError(subject, "has no .modinfo section", "name a kernel module")
    fields: dict[str, list[str]] = {}
    for item in bytes(data).split(b"\0"):
        name, equals, value = item.partition(b"=")
        if equals:
            fields.setdefault(name.decode(), []).append(value.decode("utf-8", "replace"))
    return fields


def _module_files(folder: Path) -> dict[str, Path]:
    return {
        canonical(name): Path(above, name)
        for above, _, names in os.walk(folder)
        for name in names
        if name.endswith(SUFFIXES)
    }


def _built_in(folder: Path) -> frozenset[str]:
    listed = folder / "modules.builtin"
    text = listed.read_text() if listed.is_file() else ""
    return frozenset(canonical(Path(line).name) for line in text.splitlines())


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def _before(softdep: str) -> list[str]:
    """The words after ``pre:`` of ``pre: a b post: c`` (kmod's modprobe.d(5), softdep)."""
    found, taking = [], False
    for word in softdep.split():
        if word in ("pre:", "post:"):
            taking = word == "pre:"
        elif taking:
            found.append(word)
    return found
