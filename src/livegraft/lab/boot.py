# SPDX-License-Identifier: GPL-2.0-or-later
"""Start a guest: put its file system together, choose the accelerator, wait for the agent."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from livegraft.cache import Cache
from livegraft.errors import LivegraftError
from livegraft.lab import acceleration, package
from livegraft.lab.channel import Channel
from livegraft.lab.cpio import CpioWriter
from livegraft.lab.direct import startable
from livegraft.lab.guest import BOOT_SECONDS, Guest, lost
from livegraft.lab.image import Image, archive, package_archive, recipe
from livegraft.lab.modules import ModuleFolder, canonical
from livegraft.lab.qemu import Accelerator, Firmware, Machine, Qemu
from livegraft.progress import SILENT, Progress

CHANNEL_MODULES = ("virtio_pci", "virtio_console")


@contextmanager
def boot(
    vmlinuz: Path,
    modules: Path,
    *,
    image: Image | str = Image.PYTHON,
    load: Sequence[str] = (),
    files: Mapping[str, bytes | Path] | None = None,
    cmdline: str = "",
    memory_mib: int = 1024,
    cpus: int = 2,
    cpu: str = "max",
    firmware: Firmware | None = None,
    shared: Path | None = None,
    packages: Sequence[str] = (),
    disk: Path | None = None,
    timeout: float = BOOT_SECONDS,
    accelerator: Accelerator | None = None,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Iterator[Guest]:
    """A guest, up and ready; ended when the block is left, however it is left.

    Args:
        vmlinuz: the kernel as the distribution ships it.
        modules: its ``/lib/modules/RELEASE``, or the same inside an unpacked package.
        image: what else is in the guest.
        load: modules to be inserted before the first command, with what they need.
        files: path in the guest to content; a Path keeps its permissions.
        cmdline: added to the kernel's command line.
        memory_mib: MiB of memory; the file system is part of it.
        cpus: number of processors.
        cpu: QEMU's model of them: what it lacks and is vulnerable to decides what the kernel does.
        firmware: UEFI firmware that starts the kernel, as it is on the disk.
        shared: a folder that the guest may mount (9p, tag ``shared``).
        packages: Debian packages whose files are in the guest besides; without what they need.
        disk: a raw image of the disk ``/dev/vda``, there once ``virtio_blk`` is inserted.
        timeout: seconds until the agent has to be up.
        accelerator: by default KVM if it works here (which is tried once), else emulation.
        cache: where images are kept.
        progress: told of the steps.

    Raises:
        LostGuest: it did not come up.
        UsageError: a module of `load` does not exist.
        LivegraftError: a module of `load` was not taken by the kernel.
    """
    cache = cache or Cache()
    folder = ModuleFolder(modules)
    channel_modules = folder.closure(CHANNEL_MODULES)
    wanted = [name for name in folder.closure(load) if name not in channel_modules]
    archives = _archives(Image(image), cache, progress)
    if packages:
        archives.append(package_archive(packages, cache, progress))
    kernel = startable(vmlinuz, cache) if firmware is None else vmlinuz
    if accelerator is None:
        accelerator = acceleration.best(vmlinuz, modules, cache, progress)
    machine = Machine(kernel, accelerator, memory_mib, cpus, cpu, cmdline, firmware, shared, disk)
    name = folder.folder.name
    with progress.step("boot guest"), _initial_files(archives) as stream:
        cpio = CpioWriter(stream)
        _add_modules(cpio, folder, channel_modules, wanted)
        for path, data in (files or {}).items():
            _add_file(cpio, path, data)
        cpio.finish()
        stream.flush()
        started = start(name, machine, stream.fileno(), timeout)
    try:
        _require_inserted(started.report, load)
        inserted = (*channel_modules, *wanted)
        yield Guest(name, started.qemu, started.channel, folder, inserted, started.seconds)
    finally:
        started.end()


@dataclass(frozen=True, slots=True)
class Started:
    """A guest that is up: its process, the channel, the agent's report, and how long it took."""

    qemu: Qemu
    channel: Channel
    report: str
    seconds: float

    def end(self) -> None:
        self.qemu.end()
        self.channel.close()
        self.qemu.close()


def start(name: str, machine: Machine, initrd: int, timeout: float) -> Started:
    """Start a guest and wait for its agent.

    Args:
        name: of its kernel, for errors.
        machine: the machine.
        initrd: descriptor of the initial file system.
        timeout: seconds until the agent has to be up.

    Raises:
        LostGuest: it did not come up.
    """
    began = time.monotonic()
    qemu = Qemu(machine, initrd)
    try:
        channel = Channel(qemu.channel)
        report = channel.ready(timeout)
        if report is None:
            late = f"it was not up after {timeout:g} s"
            raise lost(name, qemu, late if channel.connected else "it ended early")
        return Started(qemu, channel, report, time.monotonic() - began)
    except BaseException:
        qemu.end()
        qemu.channel.close()
        qemu.close()
        raise


def _require_inserted(report: str, load: Sequence[str]) -> None:
    """Fail for a module that was asked for. One that is only wanted before it may be missing.

    (crc32c_intel, for instance, answers ENODEV on a processor that lacks the instruction.)
    """
    for line in report.splitlines():
        path, _, error = line.partition(": ")
        if canonical(Path(path).name) in map(canonical, load):
            raise LivegraftError(
                Path(path).stem, f"the guest's kernel does not take the module: {error}"
            )


def _archives(image: Image, cache: Cache, progress: Progress) -> list[Path]:
    found = [archive(image, cache, progress)]
    python = recipe(image).python
    if python is not None:
        found.append(package.archive(cache, Path(python).name))
    return found


@contextmanager
def _initial_files(archives: Sequence[Path]) -> Iterator[BinaryIO]:
    """A file in memory that begins with archives; the kernel takes one after the other."""
    descriptor = os.memfd_create("livegraft-initrd")
    with os.fdopen(descriptor, "wb") as stream:
        for path in archives:
            with path.open("rb") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
        yield stream


def _add_modules(
    cpio: CpioWriter, folder: ModuleFolder, channel: Sequence[str], wanted: Sequence[str]
) -> None:
    place = f"usr/lib/modules/{folder.folder.name}/kernel"
    for names, listed in ((channel, "channel"), (wanted, "load")):
        for name in names:
            cpio.file(f"{place}/{name}.ko", folder.content(name))
        text = "".join(f"/{place}/{name}.ko\n" for name in names)
        cpio.file(f"usr/lib/livegraft/{listed}", text.encode())


def _add_file(cpio: CpioWriter, path: str, data: bytes | Path) -> None:
    if isinstance(data, Path):
        cpio.copy(path, data)
    else:
        cpio.file(path, data)
