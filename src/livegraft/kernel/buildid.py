# SPDX-License-Identifier: GPL-2.0-or-later
"""The build ID that the linker puts into a kernel and into each module."""

from __future__ import annotations

import struct

from livegraft.elf import header
from livegraft.elf.header import SectionType

_NT_GNU_BUILD_ID = 3


def build_id_in(file: header.File) -> str | None:
    """The build ID of an ELF file, hexadecimal, from its notes; None if it has none.

    A note is ``Elf64_Nhdr`` (three 32-bit words: name size, description size, type), the name and
    the description, each padded to four bytes.
    """
    for section in file.sections:
        if section.type == SectionType.NOTE:
            found = _in_notes(bytes(file.bytes_of(section)), file.byte_order)
            if found is not None:
                return found
    return None


def _in_notes(data: bytes, order: header.ByteOrder) -> str | None:
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(order + "III", data, at)
        name = data[at + 12 : at + 12 + name_size]
        start = at + 12 + (name_size + 3 & ~3)
        if name == b"GNU\0" and kind == _NT_GNU_BUILD_ID and start + size <= len(data):
            return data[start : start + size].hex()
        at = start + (size + 3 & ~3)
    return None
