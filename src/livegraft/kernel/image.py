# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's code as shipped: what is inside ``vmlinuz``.

A bzImage carries a compressed ELF file with every section and no symbol table. Where it lies is in
the setup header (Documentation/arch/x86/boot.rst, ``payload_offset`` and ``payload_length``,
protocol 2.08 and later). Unpacked once, it is kept in the cache and mapped from then on.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from livegraft.elf import header
from livegraft.elf.header import SectionFlag, SectionHeader, SectionType
from livegraft.errors import ImageError
from livegraft.kernel.buildid import build_id_in
from livegraft.kernel.compression import unpack
from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT, Progress

_REMEDY = "take the image from the distribution's package again"

_HEADER_MAGIC = 0x202
_PAYLOAD_SINCE = 0x0208
_SECTOR = 512
_ALLOC = int(SectionFlag.ALLOC)


@dataclass(frozen=True, slots=True)
class KernelImage:
    """The kernel's ELF image, by address.

    Args:
        file: its headers and bytes.
        sections: those with an address at run time (``.data..percpu`` starts at 0).
        build_id: hexadecimal, as in ``/sys/kernel/notes``.
        subject: what to call it in an error.
    """

    file: header.File
    sections: tuple[SectionHeader, ...]
    build_id: str
    subject: str

    @property
    def lowest(self) -> int:
        """``_text``: the lowest address outside of the per-CPU area."""
        return min(section.address for section in self.sections if section.address >> 63)

    @property
    def end(self) -> int:
        """The address behind the last section."""
        return max(section.address + section.size for section in self.sections)

    def section_at(self, address: int) -> SectionHeader | None:
        """The section that holds `address`, or None."""
        for section in self.sections:
            if section.address <= address < section.address + section.size:
                return section
        return None

    def has(self, address: int, size: int) -> bool:
        """Whether the image holds bytes for the whole range."""
        section = self.section_at(address)
        return (
            section is not None
            and section.type != SectionType.NOBITS
            and address + size <= section.address + section.size
        )

    def read(self, address: int, size: int) -> memoryview:
        """The bytes at an address.

        Raises:
            ImageError: the range is not inside of one section with contents.
        """
        section = self.section_at(address)
        if section is None or not self.has(address, size):
            raise ImageError(self.subject, f"holds no {size} bytes at {address:#x}", _REMEDY)
        start = section.offset + address - section.address
        return self.file.data[start : start + size]

    def array(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """:meth:`read` as an array of bytes that shares the image's memory."""
        return np.frombuffer(self.read(address, size), dtype=np.uint8)


def open_image(kernel: Kernel, progress: Progress = SILENT) -> KernelImage:
    """The kernel's image, unpacked the first time (some seconds for xz) and mapped from then on.

    Raises:
        ImageError: vmlinuz is damaged, or of a kind that is not known.
        CacheError: the disk is full.
    """
    packed = kernel.vmlinuz.read_bytes()
    name = kernel.derived(f"code/vmlinux-{zlib.crc32(packed):08x}")

    def build(path: Path) -> None:
        path.write_bytes(unpack_vmlinuz(packed, str(kernel.vmlinuz)))

    if not (kernel.cache.root / name).is_file():
        with progress.step("unpack the image"):
            kernel.cache.file(name, build, progress)
    with (kernel.cache.root / name).open("rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    return parse_image(memoryview(mapped), str(kernel.vmlinuz))


def parse_image(data: bytes | memoryview, subject: str) -> KernelImage:
    """The image in an unpacked ELF file.

    Raises:
        ElfError: it is no ELF file.
        ImageError: it is not a linked x86-64 kernel with a build ID.
    """
    file = header.parse(data, subject)
    if file.machine != header.Machine.X86_64 or file.type not in (
        header.FileType.EXEC,
        header.FileType.DYN,
    ):
        raise ImageError(subject, "holds no linked x86-64 kernel", _REMEDY)
    identity = build_id_in(file)
    if identity is None:
        raise ImageError(subject, "has no build ID", "live patches need CONFIG_BUILD_ID's note")
    loaded = tuple(section for section in file.sections if section.flags & _ALLOC)
    return KernelImage(file, loaded, identity, subject)


def unpack_vmlinuz(data: bytes, subject: str) -> bytes:
    """The ELF file in a bzImage.

    Args:
        data: the whole ``vmlinuz``.
        subject: what to call it in an error.

    Raises:
        ImageError: no bzImage with a payload, damaged, or compressed in an unknown way.
    """
    if len(data) < 0x250 or data[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise ImageError(subject, "is no x86 bzImage", _REMEDY)
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < _PAYLOAD_SINCE:
        raise ImageError(subject, f"boot protocol {protocol:#06x} tells no payload", _REMEDY)
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * _SECTOR + offset
    if length < 8 or start + length > len(data):
        raise ImageError(subject, "its payload lies outside the file (truncated?)", _REMEDY)
    return unpack(data[start : start + length], subject, has_size=True)
