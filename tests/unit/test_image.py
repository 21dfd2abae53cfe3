# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF file inside of vmlinuz: found, unpacked, and refused when it is not whole."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable, Sequence

import lz4.block
import pytest
import zstandard

from livegraft.errors import ElfError, ImageError
from livegraft.kernel.image import parse_image, unpack_vmlinuz

TEXT = 0xFFFFFFFF81000000
BUILD_ID = bytes(range(20))
NOTE = struct.pack("<III4s", 4, len(BUILD_ID), 3, b"GNU\0") + BUILD_ID

Parts = Sequence[tuple[str, int, bytes]]
"""Name, address and contents of each section."""


def linked_elf(parts: Parts, note: bytes = NOTE) -> bytes:
    """An executable with those sections and a note with its build ID."""
    listed = [*parts, (".notes", TEXT + 0x2000000, note)]
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in listed) + b".shstrtab\0"
    body = bytearray(64)
    headers = [bytes(64)]
    for name, address, data in listed:
        body += bytes(-len(body) % 8)
        kind = 7 if name == ".notes" else 1
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(
            struct.pack("<IIQQQQIIQQ", at, kind, 2, address, len(body), len(data), 0, 0, 8, 0)
        )
        body += data
    at = names.index(b".shstrtab")
    headers.append(struct.pack("<IIQQQQIIQQ", at, 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
    body += names
    body += bytes(-len(body) % 8)
    fields = (2, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(headers), len(headers) - 1)
    body[:64] = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *fields)
    return bytes(body) + b"".join(headers)


ELF = linked_elf([(".text", TEXT, bytes(range(256)) * 16)])
SIZE = struct.pack("<I", len(ELF))

PACKED: dict[str, Callable[[], bytes]] = {
    "xz": lambda: lzma.compress(ELF, check=lzma.CHECK_CRC32) + SIZE,
    "zstd": lambda: zstandard.compress(ELF) + SIZE,
    "gzip": lambda: gzip.compress(ELF),
    "lz4": lambda: lz4_legacy(ELF) + SIZE,
}


def lz4_legacy(data: bytes) -> bytes:
    """Like ``lz4 -l``, in two blocks."""
    packed = b"\x02\x21\x4c\x18"
    for part in (data[:1000], data[1000:]):
        block = lz4.block.compress(part, store_size=False)
        packed += struct.pack("<I", len(block)) + block
    return packed


def bzimage(payload: bytes) -> bytes:
    """A bzImage with two sectors of set-up code and the payload 32 bytes into the rest."""
    head = bytearray(3 * 512 + 32)
    head[0x1F1] = 2
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x020F)
    struct.pack_into("<II", head, 0x248, 32, len(payload))
    return bytes(head) + payload + b"trailer"


@pytest.mark.parametrize("kind", PACKED)
def test_each_compression_is_unpacked(kind: str) -> None:
    assert unpack_vmlinuz(bzimage(PACKED[kind]()), "vmlinuz") == ELF


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("cut", [8, 40, 60])
def test_a_truncated_payload_is_refused(kind: str, cut: int) -> None:
    payload = PACKED[kind]()[:-cut]
    with pytest.raises(ImageError):
        unpack_vmlinuz(bzimage(payload), "vmlinuz")


@pytest.mark.parametrize("kind", PACKED)
def test_another_size_than_promised_is_refused(kind: str) -> None:
    payload = PACKED[kind]()[:-4] + struct.pack("<I", len(ELF) + 1)
    with pytest.raises(ImageError):
        unpack_vmlinuz(bzimage(payload), "vmlinuz")


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"BZh" + bytes(64), "is compressed with bzip2"),
        (b"\x89LZO" + bytes(64), "is compressed with lzo"),
        (b"nothing known" + bytes(64), "unknown compression"),
    ],
)
def test_another_compression_is_refused_by_name(payload: bytes, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        unpack_vmlinuz(bzimage(payload), "vmlinuz")


def test_what_is_no_bzimage_is_refused() -> None:
    with pytest.raises(ImageError, match="no x86 bzImage"):
        unpack_vmlinuz(ELF, "vmlinuz")
    whole = bzimage(PACKED["gzip"]())
    with pytest.raises(ImageError, match="truncated"):
        unpack_vmlinuz(whole[:2000], "vmlinuz")


def test_bytes_are_read_by_address() -> None:
    image = parse_image(ELF, "vmlinux")
    assert image.build_id == BUILD_ID.hex()
    assert image.lowest == TEXT
    assert bytes(image.read(TEXT + 300, 4)) == bytes([44, 45, 46, 47])
    assert image.array(TEXT + 1, 2).tolist() == [1, 2]
    for address, size in ((TEXT - 1, 1), (TEXT + 4095, 2), (0, 1)):
        assert not image.has(address, size)
        with pytest.raises(ImageError, match="holds no"):
            image.read(address, size)


def test_an_image_without_build_id_is_refused() -> None:
    with pytest.raises(ImageError, match="build ID"):
        parse_image(linked_elf([(".text", TEXT, b"x")], note=b""), "vmlinux")
    with pytest.raises(ElfError):
        parse_image(b"no ELF at all" * 10, "vmlinux")
