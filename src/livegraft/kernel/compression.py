# SPDX-License-Identifier: GPL-2.0-or-later
"""How kernel images and modules are compressed, told by their first bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from livegraft.errors import ImageError

_DAMAGED = "take it from the distribution's package again"

_LZ4 = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
"""Most that a block of lz4's legacy format unpacks to, in bytes."""

_UNSUPPORTED = {
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO": "lzo",
}
"""Payload kinds of scripts/Makefile.lib that no distribution kernel here uses."""


def unpack(data: bytes, subject: str, *, has_size: bool = False) -> bytes:
    """What xz, zstd, gzip or lz4 packed.

    Args:
        data: the packed bytes.
        subject: what to call them in an error.
        has_size: whether kbuild's ``size_append`` put the unpacked size behind them (32 bits,
            little endian; gzip ends with it anyway).

    Raises:
        ImageError: damaged, of another size than it says, or packed in another way.
    """
    # lz4's format has no end of its own.
    if has_size and data.startswith(_LZ4):
        result = _unpack(data[:-4], subject)
    else:
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
        if data.startswith(_LZ4):
            return b"".join(_lz4_blocks(data, subject))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(subject, f"does not unpack ({error})", _DAMAGED) from error
    for magic, name in _UNSUPPORTED.items():
        if data.startswith(magic):
            raise ImageError(
                subject, f"is compressed with {name}", "xz, zstd, gzip and lz4 are known"
            )
    raise ImageError(subject, f"unknown compression ({data[:6].hex()})", _DAMAGED)


def _lz4_blocks(data: bytes, subject: str) -> Iterator[bytes]:
    """The blocks of lz4's legacy format, as ``lz4 -l`` of scripts/Makefile.lib writes it.

    Each follows its packed size (32 bits, little endian), holds 8 MiB but for the last, and nothing
    tells the end but the end (lz4's doc/lz4_Frame_format.md, "Legacy frame").
    """
    import lz4.block

    at = len(_LZ4)
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at:
            raise ImageError(subject, "ends in the middle of its compressed data", _DAMAGED)
        yield lz4.block.decompress(data[at : at + size], uncompressed_size=_LZ4_BLOCK)
        at += size


def _whole(result: bytes, ended: bool, subject: str) -> bytes:
    if not ended:
        raise ImageError(subject, "ends in the middle of its compressed data", _DAMAGED)
    return result
