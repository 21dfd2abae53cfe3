# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel out of a ``vmlinuz``, so that a guest need not decompress it under emulation.

A bzImage is a small program that decompresses the kernel proper, an ELF file, and jumps into it.
Emulated, that takes 3 s for Debian's xz-compressed 6.1. QEMU can start the ELF file itself where
the kernel has the entry point for that (``CONFIG_PVH``, all of Debian's have it). The code is the
same, byte for byte; only the kernel's text is not moved to a random address.

Sources: Documentation/x86/boot.rst (payload_offset, payload_length) and
include/xen/interface/elfnote.h.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from pathlib import Path

from livegraft.cache import Cache
from livegraft.elf import header
from livegraft.errors import ElfError, ImageError

_XEN_ELFNOTE_PHYS32_ENTRY = 18
_SECTOR = 512


def startable(vmlinuz: Path, cache: Cache) -> Path:
    """The file to give to ``qemu -kernel``: the kernel proper if it can be started directly.

    Args:
        vmlinuz: the image as the distribution ships it.
        cache: keeps the decompressed kernel, named after the image's content.

    Raises:
        ImageError: the file is not a bzImage.
    """
    image = vmlinuz.read_bytes()
    payload = _payload(image, vmlinuz)
    kernel = cache.file(
        f"lab/vmlinux/{hashlib.sha256(image).hexdigest()[:32]}",
        lambda path: _write(path, payload),
    )
    return kernel if kernel.stat().st_size else vmlinuz


def _write(path: Path, payload: bytes) -> None:
    """Write the kernel, or an empty file for one that has to be started by its own loader."""
    kernel = _decompressed(payload)
    path.write_bytes(kernel if kernel is not None and _has_entry_point(kernel) else b"")


def _payload(image: bytes, path: Path) -> bytes:
    if image[0x202:0x206] != b"HdrS":
        raise ImageError(str(path), "is not a bzImage", "name the vmlinuz of an x86-64 kernel")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * _SECTOR + offset
    return image[start : start + length]


def _decompressed(payload: bytes) -> bytes | None:
    # xz and zstd are followed by the size in 4 bytes, which one-shot decompressors would stumble
    # over; gzip ends with it anyway (scripts/Makefile.lib).
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(payload)
    return None


def _has_entry_point(kernel: bytes) -> bool:
    try:
        notes = header.parse(kernel, "vmlinux").section_data(".notes")
    except ElfError:
        return False
    return notes is not None and _has_note(bytes(notes), b"Xen\0", _XEN_ELFNOTE_PHYS32_ENTRY)


def _has_note(notes: bytes, owner: bytes, kind: int) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, found = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        if name == owner and found == kind:
            return True
        at += 12 + -(-name_size // 4) * 4 + -(-size // 4) * 4
    return False
