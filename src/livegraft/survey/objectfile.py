# SPDX-License-Identifier: GPL-2.0-or-later
"""Object files as the oracle reads them: with :mod:`struct` alone, so that it shares nothing with
what made the module.

Formats: ELF-64; ``.klp.rela`` sections as the kernel's
Documentation/livepatch/module-elf-format.rst has them.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

RESERVED = 0xFF00
"""``SHN_LORESERVE``."""

_SHT_SYMTAB = 2
_SHT_RELA = 4
_SHT_NOBITS = 8
_SHF_ALLOC = 2
_KLP_SECTION = re.compile(r"\.klp\.rela\.([^.]+)\.(.+)$")
_INIT = re.compile(r"\.init(\.|$)")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of an ELF file."""

    name: str
    kind: int
    is_global: bool
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """An entry of a RELA section."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(slots=True)
class Elf:
    """As much of a relocatable ELF-64 file as is needed here."""

    data: bytes = field(default=b"", repr=False)
    names: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    """The type of each section."""
    flags: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where the content of each section is in the file."""
    sizes: list[int] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    relocations: list[Relocation] = field(default_factory=list)
    livepatch: list[Relocation] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    """The object that each entry of `livepatch` waits for."""

    @classmethod
    def read(cls, data: bytes) -> Elf:
        """Read a file."""
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count, strings = struct.unpack_from("<HHH", data, 58)
        heads = [struct.unpack_from("<IIQQQQIIQQ", data, at + n * size) for n in range(count or 0)]
        if not count:
            first = struct.unpack_from("<IIQQQQIIQQ", data, at)
            heads = [
                struct.unpack_from("<IIQQQQIIQQ", data, at + n * size) for n in range(first[5])
            ]
            strings = first[6] if strings == 0xFFFF else strings
        elf = cls(data)
        text = _Strings(data, heads[strings][4])
        elf.names = [text.at(head[0]) for head in heads]
        elf.kinds = [head[1] for head in heads]
        elf.flags = [head[2] for head in heads]
        elf.places = [head[4] for head in heads]
        elf.sizes = [head[5] for head in heads]
        for head in heads:
            if head[1] == _SHT_SYMTAB:
                elf._read_symbols(data, head[4], head[5], _Strings(data, heads[head[6]][4]))
        for number, head in enumerate(heads):
            if head[1] == _SHT_RELA and elf._stays(head[7]):
                elf._read_relocations(data, head[4], head[5], head[7], elf.names[number])
        return elf

    def _stays(self, section: int) -> bool:
        """Whether it can be read back: the kernel frees ``.init`` when the module has begun."""
        return bool(self.flags[section] & _SHF_ALLOC) and not _INIT.match(self.names[section])

    def _read_symbols(self, data: bytes, at: int, size: int, names: _Strings) -> None:
        for name, info, _, section, value, length in struct.iter_unpack(
            "<IBBHQQ", data[at : at + size]
        ):
            self.symbols.append(
                Symbol(names.at(name), info & 15, info >> 4 != 0, section, value, length)
            )

    def _read_relocations(self, data: bytes, at: int, size: int, target: int, name: str) -> None:
        klp = _KLP_SECTION.match(name)
        for offset, info, addend in struct.iter_unpack("<QQq", data[at : at + size]):
            entry = Relocation(target, offset, info & 0xFFFFFFFF, info >> 32, addend)
            if klp:
                self.livepatch.append(entry)
                # The module itself applies those of an object that there is not, to vmlinux.
                self.owners.append("vmlinux" if klp[1] == "livegraft" else klp[1])
            else:
                self.relocations.append(entry)

    def content(self, symbol: Symbol) -> bytes:
        """What a variable holds at first, as the file has it: nothing of one that begins as zeros,
        and no addresses."""
        if self.kinds[symbol.section] == _SHT_NOBITS:
            return b""
        start = self.places[symbol.section] + symbol.value
        return self.data[start : start + symbol.size]

    def containing(self, section: int, offset: int) -> Symbol | None:
        """The function or variable that holds a place."""
        best = None
        for symbol in self.symbols:
            if symbol.section == section and symbol.kind in (1, 2):
                inside = symbol.value <= offset < symbol.value + max(symbol.size, 1)
                if inside and (best is None or symbol.is_global):
                    best = symbol
        return best


class _Strings:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def at(self, offset: int) -> str:
        start = self._at + offset
        return self._data[start : self._data.index(b"\0", start)].decode("utf-8", "replace")


def place_in(elf: Elf, relocation: Relocation) -> tuple[str, int] | None:
    """The function and the offset in it that a relocation of a table means."""
    symbol = elf.symbols[relocation.symbol]
    if symbol.section == 0 or symbol.section >= RESERVED:
        return None
    at = symbol.value + relocation.addend
    holder = elf.containing(symbol.section, at)
    if holder is None or holder.kind != 2:
        return None
    return holder.name, at - holder.value


_SIGNATURE = b"~Module signature appended~\n"
"""At the end of a signed module (include/linux/module_signature.h): before it ``struct
module_signature``, 12 bytes that end with the signature's length, big endian; before that the
signature."""

_THIS_MODULE = ".rela.gnu.linkonce.this_module"


def without_init(module: bytes) -> bytes:
    """A module of the distribution whose ``struct module`` names no init function.

    The kernel then inserts it and calls nothing (kernel/module/main.c, ``do_init_module``). Without
    its signature, too, which it would no longer fit.
    """
    if module.endswith(_SIGNATURE):
        end = len(module) - len(_SIGNATURE)
        (length,) = struct.unpack_from(">I", module, end - 4)
        module = module[: end - 12 - length]
    data = bytearray(module)
    elf = Elf.read(module)
    for name, at, size in zip(elf.names, elf.places, elf.sizes, strict=True):
        if name == _THIS_MODULE:
            for entry in range(at, at + size, 24):
                _, symbol = struct.unpack_from("<II", data, entry + 8)
                if elf.symbols[symbol].name == "init_module":
                    struct.pack_into("<I", data, entry + 8, 0)  # R_X86_64_NONE
    return bytes(data)
