#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Let a module refer to symbols that the kernel does not export.

Usage: relocate.py MODULE.ko MODULE.SYMVERS NAMES

NAMES lists symbols of the kernel, one a line. Those that MODULE.ko needs and MODULE.SYMVERS does
not export become livepatch symbols ``.klp.sym.vmlinux.NAME,0``, and their relocations move into
sections ``.klp.rela.vmlinux.SECTION``: Documentation/livepatch/module-elf-format.rst of the kernel.
MODULE.ko is replaced at once. One that was done before stays as it is.

Every module's loader applies such sections, whether or not it says livepatch of itself:
``apply_relocations()`` of kernel/module/main.c goes by the section's flag alone, and
``simplify_symbols()`` there leaves symbols of SHN_LIVEPATCH to it. That is before it uses any table
of the module. Position 0 asks for the only symbol of that name: the kernel refuses others.

It has to run behind modpost, which links the module, and in front of signing, which covers every
byte. Nothing but Python's standard library is needed.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_LIVEPATCH = 0xFF20
"""include/uapi/linux/elf.h"""

SHT_NULL, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS = 0, 2, 3, 4, 8
SHF_ALLOC, SHF_INFO_LINK, SHF_RELA_LIVEPATCH = 0x2, 0x40, 0x00100000
FLAGS = SHF_ALLOC | SHF_INFO_LINK | SHF_RELA_LIVEPATCH

SYMBOL_PREFIX = ".klp.sym.vmlinux."
SECTION_PREFIX = ".klp.rela.vmlinux."

SIZES = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}
"""Relocation types of ``apply_relocate_add()`` (arch/x86/kernel/module.c) and the bytes that each
writes: R_X86_64_64, PC32, PLT32, 32, 32S, PC64."""

PER_CPU = ".data..percpu"
"""The loader takes ALLOC from this section before relocations are applied, which skips them."""

SIGNATURE = b"~Module signature appended~\n"

_IDENT = b"\x7fELF\2\1\1" + bytes(9)  # 64 bits, little endian
_HEADER = struct.Struct("<HHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ENTRY = struct.Struct("<QIIq")
_REL, _X86_64 = 1, 62


class Problem(Exception):
    """Why a module cannot be finished: what, and what is the matter with it."""


class Symbol(NamedTuple):
    """``Elf64_Sym``."""

    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


class Entry(NamedTuple):
    """``Elf64_Rela``; ``r_info`` in its two halves."""

    offset: int
    type: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class Section:
    """``Elf64_Shdr`` with its name, and the bytes that it has in the file."""

    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int
    data: bytes


class Done(NamedTuple):
    """What came of a module.

    Args:
        data: the finished file.
        counts: how many relocations each livepatch symbol has.
        notes: what the lists name without need.
    """

    data: bytes
    counts: dict[str, int]
    notes: list[str]


def relocate(data: bytes, names: Sequence[str], exported: Collection[str]) -> Done:
    """Make livepatch symbols of what is undefined in a linked module and not exported.

    Args:
        data: the module's bytes.
        names: symbols that it may need without their being exported.
        exported: all that the kernel itself exports.

    Raises:
        Problem: it needs something else, or no loader could apply a relocation.
    """
    header, sections = _read(data)
    (table,) = [n for n, each in enumerate(sections) if each.type == SHT_SYMTAB]
    strings = sections[table].link
    symbols = [Symbol(*each) for each in _SYMBOL.iter_unpack(sections[table].data)]
    text = bytearray(sections[strings].data)
    needed = {
        _text(text, each.name): number
        for number, each in enumerate(symbols)
        if each.section == SHN_UNDEF and each.name
    }
    done = [_text(text, each.name) for each in symbols if each.section == SHN_LIVEPATCH]
    notes = _check_names(names, needed, {name[len(SYMBOL_PREFIX) : -2] for name in done}, exported)
    wanted = {needed[name]: name for name in names if name in needed and name not in exported}
    if not wanted:
        return Done(data, {}, notes)

    for number, name in wanted.items():
        symbols[number] = symbols[number]._replace(name=len(text), section=SHN_LIVEPATCH)
        text += f"{SYMBOL_PREFIX}{name},0".encode() + b"\0"
    sections[table] = replace(
        sections[table], data=b"".join(_SYMBOL.pack(*each) for each in symbols)
    )
    sections[strings] = replace(sections[strings], size=len(text), data=bytes(text))
    counts = dict.fromkeys(wanted.values(), 0)
    for number in range(len(sections)):
        _move(sections, number, wanted, counts)
    return Done(_write(header, sections), counts, notes)


def _check_names(
    names: Sequence[str],
    needed: Collection[str],
    done: Collection[str],
    exported: Collection[str],
) -> list[str]:
    """What is undefined is exported or listed; says what is listed without need."""
    unknown = sorted(name for name in needed if name not in exported and name not in names)
    if unknown:
        raise Problem(f"{', '.join(unknown)}: is neither exported by this kernel nor listed")
    notes = [f"{name} is listed, but this kernel exports it" for name in names if name in exported]
    unused = [name for name in names if name not in {*needed, *done, *exported}]
    return notes + [f"{name} is listed, but not needed" for name in unused]


def _move(
    sections: list[Section], number: int, wanted: dict[int, str], counts: dict[str, int]
) -> None:
    """Move relocations that refer to `wanted` symbols into a section of their own."""
    section = sections[number]
    if section.type != SHT_RELA or section.flags & SHF_RELA_LIVEPATCH:
        return
    target = sections[section.info]
    if not target.flags & SHF_ALLOC:
        return  # the loader skips them
    entries = [Entry(*each) for each in _ENTRY.iter_unpack(section.data)]
    moving = [each for each in entries if each.symbol in wanted]
    if not moving:
        return
    for each in moving:
        _check_place(target, each, wanted[each.symbol])
        counts[wanted[each.symbol]] += 1
    sections[number] = _with_entries(section, [e for e in entries if e.symbol not in wanted])
    name = SECTION_PREFIX + target.name.removeprefix(".")
    sections.append(_with_entries(replace(section, name=name, flags=FLAGS), moving))


def _check_place(target: Section, entry: Entry, name: str) -> None:
    size = SIZES.get(entry.type)
    if size is None:
        raise Problem(
            f"{target.name}: no loader knows type {entry.type} of the relocation to {name}"
        )
    if target.name.startswith(PER_CPU):
        raise Problem(f"{target.name}: refers to {name}, which no loader resolves")
    # apply_relocate_add() refuses to write over anything but zeros.
    if target.data[entry.offset : entry.offset + size] != bytes(size):
        raise Problem(f"{target.name}: the place of a relocation to {name} is not zero")


def _with_entries(section: Section, entries: Sequence[Entry]) -> Section:
    data = b"".join(_ENTRY.pack(*each) for each in entries)
    return replace(section, size=len(data), data=data)


def _read(data: bytes) -> tuple[list[int], list[Section]]:
    """The ELF header's fields, and all sections."""
    if data.endswith(SIGNATURE):
        raise Problem("is signed: the signature would not fit any more")
    if len(data) < len(_IDENT) + _HEADER.size or not data.startswith(_IDENT):
        raise Problem("is no ELF file for x86-64")
    header = list(_HEADER.unpack_from(data, len(_IDENT)))
    kind, machine, _, _, _, table, _, _, _, _, entry_size, count, names = header
    if (kind, machine, entry_size) != (_REL, _X86_64, _SECTION.size):
        raise Problem("is no relocatable object for x86-64")
    if not 0 < names < count or table + count * _SECTION.size > len(data):
        raise Problem("its section headers are damaged, or too many")
    rows = list(_SECTION.iter_unpack(data[table : table + count * _SECTION.size]))
    contents = [
        b"" if kind in (SHT_NULL, SHT_NOBITS) else data[offset : offset + size]
        for _, kind, _, _, offset, size, *_ in rows
    ]
    sections = []
    for row, content in zip(rows, contents, strict=True):
        name, kind, flags, _, _, size, link, info, alignment, entry_size = row
        more = (size, link, info, alignment, entry_size)
        sections.append(Section(_text(contents[names], name), kind, flags, *more, content))
    return header, sections


def _write(header: Sequence[int], sections: Sequence[Section]) -> bytes:
    """The file, its sections in their order."""
    if len(sections) >= SHN_LORESERVE:
        raise Problem("it has too many sections")
    names_at = header[-1]
    names = bytearray(sections[names_at].data)
    places = []
    for section in sections:
        name = section.name.encode() + b"\0"
        if name not in names:
            names += name
        places.append(names.index(name))  # it may be the end of another one
    out = bytearray(len(_IDENT) + _HEADER.size)
    rows = []
    for number, section in enumerate(sections):
        data = bytes(names) if number == names_at else section.data
        size = section.size if section.type == SHT_NOBITS else len(data)
        out += bytes(-len(out) % max(section.alignment, 1))
        offset = 0 if section.type == SHT_NULL else len(out)
        out += data
        last = (section.link, section.info, section.alignment, section.entry_size)
        rows.append((places[number], section.type, section.flags, 0, offset, size, *last))
    out += bytes(-len(out) % 8)
    fields = [*header[:5], len(out), *header[6:11], len(sections), names_at]
    out[: len(_IDENT) + _HEADER.size] = _IDENT + _HEADER.pack(*fields)
    for row in rows:
        out += _SECTION.pack(*row)
    return bytes(out)


def _text(strings: bytes | bytearray, offset: int) -> str:
    return strings[offset : strings.index(0, offset)].decode()


def listed(text: str) -> list[str]:
    """The names of a list: one a line, ``#`` begins a comment.

    Raises:
        Problem: a line holds more than a name, or a name a second time.
    """
    found: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 or (words and words[0] in found):
            raise Problem(f"the list of names: '{line}' is not one more name")
        found += words
    return found


def exports(text: str) -> Iterator[str]:
    """What vmlinux exports, by a ``Module.symvers``: CRC, name, who exports it, how, namespace.

    Raises:
        Problem: a line has another number of fields.
    """
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) != 5:
            raise Problem(f"'{line}' is no line of a Module.symvers")
        if fields[2] == "vmlinux":
            yield fields[1]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that nobody sees half of it, with the permissions that it had."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.chmod(path.stat().st_mode & 0o7777)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    """Finish a module; returns the exit status."""
    if len(arguments) != 3:
        print("usage: relocate.py MODULE.ko MODULE.SYMVERS NAMES", file=sys.stderr)
        return 2
    module, symvers, names = map(Path, arguments)
    try:
        before = module.read_bytes()
        done = relocate(before, listed(names.read_text()), set(exports(symvers.read_text())))
        if done.data != before:
            replace_file(module, done.data)
    except (Problem, OSError) as error:
        print(f"relocate.py: error: {module.name}: {error}", file=sys.stderr)
        return 1
    for note in done.notes:
        print(f"relocate.py: note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
