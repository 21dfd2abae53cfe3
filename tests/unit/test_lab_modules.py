# SPDX-License-Identifier: GPL-2.0-or-later
"""Which modules a guest gets, and in which order."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from livegraft.errors import ElfError, UsageError
from livegraft.lab.modules import ModuleFolder, canonical, modinfo


def module(*fields: str) -> bytes:
    """An ELF object that holds nothing but ``.modinfo``."""
    info = b"".join(field.encode() + b"\0" for field in fields)
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    table = 64 + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2),
    )
    section = struct.Struct("<IIQQQQIIQQ")
    return (
        header
        + body
        + section.pack(*[0] * 10)
        + section.pack(1, 1, 2, 0, 64, len(info), 0, 0, 1, 0)
        + section.pack(10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "6.1.0-test"
    files = {
        "fs/ext4.ko": module("depends=jbd2,mbcache", "softdep=pre: crypto-crc32c post: other"),
        "fs/jbd2.ko.xz": lzma.compress(module("depends=")),
        "fs/mbcache.ko.gz": gzip.compress(module("depends=")),
        "crypto/crc32c_generic.ko": module("alias=crypto-crc32c", "depends="),
        "arch/crc32c-intel.ko": module("alias=crypto-crc32c", "alias=cpu:type:*", "depends="),
        "crypto/crc32c_other.ko": module("alias=crypto-something-else", "depends="),
        "ring/a.ko": module("depends=b"),
        "ring/b.ko": module("depends=a"),
    }
    for name, data in files.items():
        path = root / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "modules.builtin").write_text("kernel/drivers/virtio/virtio-pci.ko\n")
    return root


def test_what_a_module_needs_comes_before_it(folder: Path) -> None:
    order = ModuleFolder(folder).closure(["ext4"])
    assert order[-1] == "ext4"
    assert set(order) == {"crc32c_generic", "crc32c_intel", "jbd2", "mbcache", "ext4"}


def test_built_in_modules_need_no_file(folder: Path) -> None:
    assert ModuleFolder(folder).closure(["virtio_pci", "mbcache"]) == ["mbcache"]


def test_names_may_be_written_either_way(folder: Path) -> None:
    assert ModuleFolder(folder).closure(["crc32c-intel"]) == ["crc32c_intel"]
    assert canonical("crc32c-intel.ko.xz") == "crc32c_intel"


def test_a_circle_ends(folder: Path) -> None:
    assert sorted(ModuleFolder(folder).closure(["a"])) == ["a", "b"]


def test_compressed_modules_are_decompressed(folder: Path) -> None:
    modules = ModuleFolder(folder)
    assert modules.content("jbd2") == modules.content("mbcache") == module("depends=")


def test_an_unknown_module_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nonsense: the kernel 6\.1\.0-test has no such module"):
        ModuleFolder(folder).closure(["nonsense"])


def test_a_folder_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no modules"):
        ModuleFolder(tmp_path)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ElfError):
        modinfo(b"#!/bin/sh\n", "script")
