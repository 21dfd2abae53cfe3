# SPDX-License-Identifier: GPL-2.0-or-later
"""How kernel images and modules are compressed, told by their first bytes."""

from __future__ import annotations

import struct
import zlib

from livegraft.errors import ImageError

_DAMAGED = "take it from the distribution's package again"

_UNSUPPORTED = {
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
}
"""Payload kinds of scripts/Makefile.lib that no distribution kernel here uses."""


def unpack(data: bytes, subject: str, *, has_size: bool = False) -> bytes:
    """What xz, zstd or gzip packed.

    Args:
        data: the packed bytes.
        subject: what to call them in an error.
        has_size: whether kbuild's ``size_append`` put the unpacked size behind them (32 bits,
            little endian; gzip ends with it anyway).

    Raises:
        ImageError: damaged, of another size than it says, or packed in another way.
    """
    result = _unpack(data, subject)
    if has_size:
        (size,) = struct.unpack_from("<I", data, len(data) - 4)
        if size != len(result) & 0xFFFFFFFF:
            raise ImageError(subject, f"unpacks to {len(result)} bytes, not {size}", _DAMAGED)
    return result


def _unpack(data: bytes, subject: str) -> bytes:
    try:
        if data[:6] == b"\xfd7zXZ\0":
            import lzma

            xz = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            return _whole(xz.decompress(data), xz.eof, subject)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            import zstandard

            zstd = zstandard.ZstdDecompressor().decompressobj()
            return _whole(zstd.decompress(data), zstd.eof, subject)
        if data[:2] == b"\x1f\x8b":
            gzip = zlib.decompressobj(wbits=31)
            return _whole(gzip.decompress(data), gzip.eof, subject)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(subject, f"does not unpack ({error})", _DAMAGED) from error
    for magic, name in _UNSUPPORTED.items():
        if data.startswith(magic):
            raise ImageError(subject, f"is compressed with {name}", "xz, zstd and gzip are known")
    raise ImageError(subject, f"unknown compression ({data[:6].hex()})", _DAMAGED)


def _whole(result: bytes, ended: bool, subject: str) -> bytes:
    if not ended:
        raise ImageError(subject, "ends in the middle of its compressed data", _DAMAGED)
    return result
