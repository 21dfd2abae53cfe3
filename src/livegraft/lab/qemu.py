# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU process: its command line, its start, its certain end.

Nothing of a guest has a name in a file system: the console, the initial file system and the channel
are descriptors that QEMU inherits. So nothing of it can be found by others or be left over.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import socket
import subprocess
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from livegraft.errors import CommandMissing, LostGuest
from livegraft.run import environment

QEMU = "qemu-system-x86_64"
PORT = "livegraft"
"""Name of the virtio-serial port; the agent looks for it (agent/agent.h, ``PORT_NAME``)."""

COMMAND_LINE = "console=ttyS0 panic=-1 quiet no_timer_check cryptomgr.notests"
"""panic=-1: reboot at once, which with -no-reboot ends QEMU: a panic is noticed when it happens.
quiet: an emulated serial port is slow; oopses, panics and errors are written there all the same.
no_timer_check: on a busy machine the emulated timer's interrupts come too late for the kernel,
which then panics ("IO-APIC + timer doesn't work!").
cryptomgr.notests: testing each cipher was a fifth of an emulated kernel's start."""

CPUINFO = Path("/proc/cpuinfo")
_BOGOMIPS = re.compile(r"^bogomips\s*: ([\d.]+)$", re.MULTILINE)
"""Loops of a delay: ``loops_per_jiffy / (500000 / HZ)`` (arch/x86/kernel/cpu/proc.c)."""

_HZ = 250
"""``CONFIG_HZ`` of Debian's kernels; of another one delays are longer or shorter by the ratio."""

_END_SECONDS = 10.0


class Accelerator(StrEnum):
    """How the guest's instructions are carried out.

    Emulation runs the processors one after the other in a single thread. With a thread for each, a
    processor may run a translation of code that another has rewritten meanwhile: the kernel puts an
    int3 where it rewrites code, and takes it away when every processor has been told
    (arch/x86/kernel/alternative.c, ``text_poke_bp_batch``). An old translation with that int3 ends
    in "Oops: int3": in 1 of 45 boots of 6.12, more often where patches come and go (QEMU 7.2). A
    processor that exists does not do that.
    """

    TCG = "tcg,thread=single"
    KVM = "kvm"


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI firmware, in place of QEMU's own start of a kernel.

    Args:
        code: the program (``OVMF_CODE_4M.fd``).
        variables: its variables, with Secure Boot's keys; what the guest changes is forgotten.
    """

    code: Path
    variables: Path

    def arguments(self) -> list[str]:
        """QEMU's arguments."""
        drive = "if=pflash,format=raw"
        return [
            *("-drive", f"{drive},unit=0,readonly=on,file={self.code}"),
            *("-drive", f"{drive},unit=1,snapshot=on,file={self.variables}"),
        ]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the guest's machine is made of.

    Args:
        kernel: bzImage, or an ELF kernel with a PVH entry point.
        accelerator: emulation or KVM.
        memory_mib: MiB of memory.
        cpus: number of processors.
        cpu: QEMU's model of them.
        command_line: added to :data:`COMMAND_LINE`.
        firmware: starts the kernel, if it is not to be started directly.
        shared: a folder that the guest may mount (9p), by the tag ``shared``.
        disk: a raw image of the disk /dev/vda, which is written to.
    """

    kernel: Path
    accelerator: Accelerator = Accelerator.TCG
    memory_mib: int = 1024
    cpus: int = 2
    cpu: str = "max"
    command_line: str = ""
    firmware: Firmware | None = None
    shared: Path | None = None
    disk: Path | None = None

    def arguments(self, initrd: int, console: int, channel: int) -> list[str]:
        """QEMU's arguments.

        Args:
            initrd: descriptor of the initial file system.
            console: descriptor that the console is written to.
            channel: descriptor of a connected socket.
        """
        return [
            *(self.firmware.arguments() if self.firmware else ()),
            *(("-drive", f"file={self.disk},if=virtio,format=raw") if self.disk else ()),
            *("-accel", self.accelerator, "-machine", "pc", "-cpu", self.cpu),
            *("-smp", str(self.cpus), "-m", f"{self.memory_mib}M"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-kernel", os.fspath(self.kernel), "-initrd", f"/proc/self/fd/{initrd}"),
            *("-append", " ".join(self._parameters())),
            *("-chardev", f"file,id=console,path=/proc/self/fd/{console},append=on"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=channel,fd={channel}"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=channel,name={PORT}"),
            *(_sharing(self.shared) if self.shared else ()),
        ]

    def _parameters(self) -> list[str]:
        """The kernel's command line; what was asked for comes last, and so wins."""
        delay = _delay_parameter() if self.accelerator is Accelerator.TCG else ""
        return [each for each in (COMMAND_LINE, delay, self.command_line) if each]


def _delay_parameter() -> str:
    """``lpj=``, as the kernel would find it, for emulated processors.

    They count their ticks (TSC) with the host's, so a delay has as many loops as on the host. The
    kernel measures it for all but the first processor, because theirs might differ; emulated, that
    takes a fifth of its start and fails now and then, which makes delays a thousand times too
    short (init/calibrate.c, ``calibrate_delay_direct``).
    """
    found = _BOGOMIPS.search(CPUINFO.read_text("utf-8"))
    return f"lpj={round(float(found[1]) * 500_000 / _HZ)}" if found else ""


def _sharing(folder: Path) -> list[str]:
    # A comma separates options: one that belongs to a value is written twice.
    path = os.fspath(folder).replace(",", ",,")
    return [
        *("-fsdev", f"local,id=shared,path={path},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=shared,mount_tag=shared"),
    ]


class Qemu:
    """A running QEMU. It ends with :meth:`end`, with this process, or by itself.

    Args:
        machine: the machine.
        initrd: descriptor of the initial file system; may be closed afterwards.

    Raises:
        CommandMissing: QEMU is not installed.
    """

    def __init__(self, machine: Machine, initrd: int) -> None:
        self._console = _Written("livegraft-console")
        self._messages = _Written("livegraft-qemu")
        ours, theirs = socket.socketpair()
        descriptors = (initrd, self._console.descriptor, theirs.fileno())
        try:
            self._process = _start(
                [QEMU, *machine.arguments(*descriptors)], descriptors, self._messages.descriptor
            )
        except BaseException:
            ours.close()
            self.close()
            raise
        finally:
            theirs.close()
        self.channel = ours
        _running.add(self)

    def console(self) -> str:
        """All that the kernel wrote on its console so far; also after the end."""
        return self._console.text()

    def messages(self) -> str:
        """What QEMU itself had to say."""
        return self._messages.text()

    def wait(self, seconds: float) -> int | None:
        """QEMU's exit status once it has ended, None if it still runs after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End it, whatever state it is in. What it wrote stays readable until :meth:`close`."""
        self._process.kill()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LostGuest(QEMU, f"process {self._process.pid} cannot be killed") from error
        finally:
            _running.discard(self)

    def close(self) -> None:
        """Give the descriptors back. What was written on them can still be read."""
        self._console.close()
        self._messages.close()


class _Written:
    """A file in memory that QEMU writes to."""

    def __init__(self, name: str) -> None:
        self.descriptor = os.memfd_create(name)
        self._kept: str | None = None

    def text(self) -> str:
        if self._kept is not None:
            return self._kept
        data = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        return data.decode("utf-8", "replace").replace("\r\n", "\n")

    def close(self) -> None:
        if self._kept is None:
            self._kept = self.text()
            os.close(self.descriptor)


_running: weakref.WeakSet[Qemu] = weakref.WeakSet()
_starter = ThreadPoolExecutor(1, "livegraft-qemu")
"""QEMU gets SIGKILL when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG): this one
lives as long as the process. So neither SIGKILL nor a crash of this process leaves a guest."""


@atexit.register
def _end_all() -> None:
    for qemu in list(_running):
        with contextlib.suppress(LostGuest):
            qemu.end()


def _start(argv: list[str], inherited: tuple[int, ...], messages: int) -> subprocess.Popen[bytes]:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            pass_fds=inherited,
            # Ctrl-C is for us: we end QEMU, after we have read what we want to know.
            start_new_session=True,
        )

    if shutil.which(QEMU) is None:
        raise CommandMissing(QEMU, "is not installed", "apt-get install qemu-system-x86")
    return _starter.submit(start).result()
