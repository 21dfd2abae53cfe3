# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of a guest that can be looked at without starting one."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
from pathlib import Path
from typing import cast

import pytest

from livegraft.cache import Cache
from livegraft.errors import Exit, ImageError, LostGuest
from livegraft.lab import qemu
from livegraft.lab.cpio import CpioWriter
from livegraft.lab.direct import startable
from livegraft.lab.guest import lost, parse_log
from livegraft.lab.image import Image, recipe
from livegraft.lab.qemu import Accelerator, Machine


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name, read as the kernel reads it: init/initramfs.c."""
    found = {}
    at = 0
    while at < len(data):
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + fields[11]
        assert data[name_end - 1] == 0
        start = -(-name_end // 4) * 4
        found[data[at + 110 : name_end - 1].decode()] = (
            fields[1],
            data[start : start + fields[6]],
        )
        at = -(-(start + fields[6]) // 4) * 4
    return found


def test_an_archive_holds_what_was_put_in(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x" * 5)
    program.chmod(0o755)
    (tmp_path / "link").symlink_to("program")
    stream = io.BytesIO()
    cpio = CpioWriter(stream)
    cpio.file("/etc/deep/file", b"abc")
    cpio.copy("bin/program", program)
    cpio.copy("bin/link", tmp_path / "link")
    cpio.character_device("dev/console", 5, 1)
    cpio.finish()
    found = entries(stream.getvalue())
    assert list(found) == [
        *("etc", "etc/deep", "etc/deep/file", "bin", "bin/program", "bin/link"),
        *("dev", "dev/console", "TRAILER!!!"),
    ]
    assert found["etc/deep/file"] == (stat.S_IFREG | 0o644, b"abc")
    assert found["bin/program"] == (stat.S_IFREG | 0o755, b"xxxxx")
    assert found["bin/link"] == (stat.S_IFLNK | 0o777, b"program")
    assert stat.S_ISCHR(found["dev/console"][0])
    assert len(stream.getvalue()) % 4 == 0


def test_an_archive_takes_no_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file nor a link"):
        CpioWriter(io.BytesIO()).copy("x", tmp_path)


def test_the_log_is_read_record_by_record() -> None:
    text = (
        "6,10,1500000,-;first; with a semicolon\n"
        " SUBSYSTEM=pci\n"
        " DEVICE=+pci:0000\n"
        "28,11,2000001,c,caller=T1;tab\\x09here\n"
        "torn"
    )
    first, second = parse_log(text)
    assert first == (1.5, 6, "first; with a semicolon", 10)
    assert second == (2.000001, 4, "tab\there", 11)


def bzimage(payload: bytes) -> bytes:
    image = bytearray(1024)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 0, len(payload))
    return bytes(image) + payload


def vmlinux(note: int) -> bytes:
    """An ELF file whose section ``.notes`` holds a note of that type of owner Xen."""
    notes = struct.pack("<III4s", 4, 0, 1, b"GNU\0") + struct.pack("<III4sQ", 4, 8, note, b"Xen", 1)
    names = b"\0.notes\0.shstrtab\0"
    table = 64 + len(notes) + len(names)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2),
    )
    section = struct.Struct("<IIQQQQIIQQ")
    return (
        header
        + notes
        + names
        + section.pack(*[0] * 10)
        + section.pack(1, 7, 2, 0, 64, len(notes), 0, 0, 4, 0)
        + section.pack(8, 3, 0, 0, 64 + len(notes), len(names), 0, 0, 1, 0)
    )


def with_size(packed: bytes, content: bytes) -> bytes:
    """As scripts/Makefile.lib packs a kernel: gzip ends with the size anyway."""
    return packed + struct.pack("<I", len(content))


@pytest.mark.parametrize(
    "packed",
    [with_size(lzma.compress(vmlinux(18)), vmlinux(18)), gzip.compress(vmlinux(18))],
    ids=["xz", "gzip"],
)
def test_a_kernel_with_an_entry_point_is_started_directly(tmp_path: Path, packed: bytes) -> None:
    image = tmp_path / "vmlinuz"
    kernel = vmlinux(18)
    image.write_bytes(bzimage(packed))
    assert startable(image, Cache(tmp_path / "cache")).read_bytes() == kernel


@pytest.mark.parametrize("payload", [lzma.compress(vmlinux(17)), b"LZOP or whatever"])
def test_any_other_kernel_is_started_by_its_own_loader(tmp_path: Path, payload: bytes) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(payload))
    cache = Cache(tmp_path / "cache")
    assert startable(image, cache) == image
    assert startable(image, cache) == image


def test_what_is_no_kernel_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"\x7fELF" + bytes(2000))
    with pytest.raises(ImageError, match="is not a bzImage"):
        startable(image, Cache(tmp_path / "cache"))


def test_recipes_can_be_read() -> None:
    for image in Image:
        found = recipe(image)
        assert "busybox-static" in found.packages
        assert found.takes("usr/bin/busybox")
        assert not found.takes("usr/share/doc/busybox/copyright")


def test_a_machine_names_no_file_but_the_kernel() -> None:
    words = Machine(Path("/k"), Accelerator.TCG, command_line="nokaslr").arguments(3, 4, 5)
    paths = [word for word in words if os.sep in word]
    assert paths == ["/k", "/proc/self/fd/3", "file,id=console,path=/proc/self/fd/4,append=on"]
    assert "tcg,thread=single" in words  # a thread for each processor runs stale translations
    assert any(word.startswith("console=") and word.endswith(" nokaslr") for word in words)


@pytest.mark.parametrize(
    ("cpuinfo", "accelerator", "said"),
    [
        ("bogomips\t: 4890.86\n" * 2, Accelerator.TCG, ["lpj=9781720"]),
        ("bogomips\t: 4890.86\n", Accelerator.KVM, []),
        ("BogoMIPS\t: 50.00\n", Accelerator.TCG, []),
    ],
)
def test_a_guest_is_told_how_long_a_delay_is(
    cpuinfo: str,
    accelerator: Accelerator,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``loops_per_jiffy`` of 250 jiffies a second; what was asked for comes after it, and wins."""
    monkeypatch.setattr(qemu, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    words = Machine(Path("/k"), accelerator, command_line="lpj=1").arguments(3, 4, 5)
    (line,) = (word for word in words if word.startswith("console="))
    assert [word for word in line.split() if word.startswith("lpj=")] == [*said, "lpj=1"]


def test_a_lost_guest_is_not_a_failure() -> None:
    error = LostGuest("6.1.0-55-amd64", "Kernel panic - not syncing: x", "the end")
    assert error.exit_code == Exit.LOST
    assert error.as_json()["console"] == "the end"
    assert "Kernel panic - not syncing: x" in str(error)


class Ended:
    """A machine that went down, and what it left on its console."""

    def __init__(self, console: str) -> None:
        self._console = console

    def wait(self, seconds: float) -> int:
        return 0

    def console(self) -> str:
        return self._console

    def messages(self) -> str:
        return ""


def test_a_panic_is_told_whatever_the_console_says_after_it() -> None:
    before, after = (f"{word}\n" * 5000 for word in ("before", "after"))
    panic = "Kernel panic - not syncing: sysrq triggered crash"
    error = lost("guest", cast("qemu.Qemu", Ended(f"{before}[ 1.5] {panic}\n{after}")), "it ended")
    assert error.reason == panic
    lines = error.console.splitlines()
    assert f"[ 1.5] {panic}" in lines
    assert 100 < len(lines) < 200
    assert lines[0] == "before" and lines[-1] == "after"


def test_without_a_panic_the_end_of_the_console_is_told() -> None:
    console = "".join(f"line {number}\n" for number in range(5000))
    error = lost("guest", cast("qemu.Qemu", Ended(console)), "it ended")
    assert "the machine was reset or switched off" in error.reason
    assert error.console.splitlines()[-1] == "line 4999"
    assert len(error.console.splitlines()) < 200
