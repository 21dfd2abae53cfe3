# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 12 on a disk, with systemd, apt and its kernel's package; it can be booted again.

mmdebstrap makes it from the archive that this machine's apt is set up for (without root too, where
user namespaces may be made). The disk is kept in the cache; each test writes to a copy.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from livegraft.kernel.kernel import Kernel
from livegraft.lab import acceleration, boot
from livegraft.lab.direct import startable
from livegraft.lab.guest import Guest
from livegraft.lab.image import agent_sources, compile_agent
from livegraft.lab.modules import ModuleFolder
from livegraft.lab.qemu import Machine
from livegraft.run import run

PACKAGES = ("systemd-sysv", "udev", "dbus", "initramfs-tools", "kmod", "openssl", "python3")
"""Besides the kernel, dpkg, apt and what is essential: the runtime's two, and what boots."""

SIZE = "4G"
"""Of the disk; what is not used is a hole."""

BOOT_SECONDS = 300.0
MEMORY_MIB = 1024

UNIT = """\
[Unit]
Description=What the host says
[Service]
ExecStartPre=/sbin/modprobe virtio_console
ExecStart=/init serve
Environment=DEBIAN_FRONTEND=noninteractive
StandardOutput=null
[Install]
WantedBy=basic.target
"""

HOOK = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk ext4
"""
"""For update-initramfs: with these three alone the guest is up some seconds earlier."""

PACK = f"""\
#!/bin/sh
set -e
cd "$1/usr/sbin"
mv policy-rc.d start-stop-daemon "$2"
mv start-stop-daemon.REAL start-stop-daemon
mkdir "$2/root"
mount --bind "$1" "$2/root"
mke2fs -q -t ext4 -d "$2/root" "$2/disk" {SIZE}
mv start-stop-daemon start-stop-daemon.REAL
mv "$2/policy-rc.d" "$2/start-stop-daemon" .
"""
"""Makes the disk of $1 in $2. What keeps services from being started while packages are configured
is no part of it; nor are proc and sys, in a mount namespace of its own."""

NO_DOCUMENTATION = ("doc", "info", "locale", "man")


def image(kernel: Kernel, more: Sequence[str] = ()) -> tuple[Path, Path]:
    """The disk and the initial file system of a Debian with a kernel, made once.

    Args:
        kernel: the kernel.
        more: packages that it has besides.

    Raises:
        RunFailed: a package cannot be had.
    """
    packages = (*PACKAGES, *sorted(more))
    recipe = (kernel.release, packages, UNIT, HOOK, PACK, SIZE, agent_sources())
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]

    def make(folder: Path) -> None:
        _make(kernel.release, packages, folder)

    folder = kernel.cache.tree(f"lab/system/{kernel.release}-{key}", make)
    return folder / "disk", folder / "initrd"


def _make(release: str, chosen: Sequence[str], folder: Path) -> None:
    compile_agent(folder / "agent")
    (folder / "unit").write_text(UNIT)
    (folder / "hook").write_text(HOOK)
    (folder / "pack").write_text(PACK)
    here, wants = shlex.quote(str(folder)), "etc/systemd/system/basic.target.wants"
    before = (
        'mkdir -p "$1/etc/initramfs-tools/hooks" "$1/etc/initramfs-tools/conf.d"',
        'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/guest"',
        f'install -m 755 {here}/hook "$1/etc/initramfs-tools/hooks/guest"',
    )
    after = (
        f'install -m 755 {here}/agent "$1/init"',
        f'install -D -m 644 {here}/unit "$1/etc/systemd/system/guest-agent.service"',
        f'mkdir -p "$1/{wants}"',
        f'ln -s ../guest-agent.service "$1/{wants}/guest-agent.service"',
        'echo guest >"$1/etc/hostname"',
        'rm -f "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/*',
        'rm -f "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"',
        f'cp "$1/boot/initrd.img-{release}" {here}/initrd',
        f'unshare --mount sh {here}/pack "$1" {here}',
    )
    packages = ",".join((*chosen, f"linux-image-{release}"))
    (folder / "sources.list").write_text(sources())
    run(
        [
            *("mmdebstrap", "--variant=minbase", f"--include={packages}", "--format=null"),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in NO_DOCUMENTATION),
            *(f"--setup-hook={each}" for each in before),
            *(f"--customize-hook={each}" for each in after),
            *("bookworm", "-", folder / "sources.list"),
        ]
    )


def sources() -> str:
    """What this machine's apt takes of Debian's archive, as lines of a sources.list."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    line = f"deb [signed-by={keyring}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    wanted = ("Identifier: Packages", "Origin: Debian")
    found = run(["apt-get", "indextargets", "--format", line, *wanted]).stdout.splitlines()
    return "".join(f"{each}\n" for each in dict.fromkeys(found))


def copied(disk: Path, place: Path) -> Path:
    """A copy of the disk that a test may write to; its holes stay holes."""
    run(["cp", "--sparse=always", "--reflink=auto", disk, place])
    return place


@contextmanager
def booted(kernel: Kernel, disk: Path, initrd: Path, parameters: str = "") -> Iterator[Guest]:
    """The machine with this disk, booted; ended when the block is left.

    Args:
        kernel: that of the disk.
        disk: a copy of the image's.
        initrd: the image's.
        parameters: more for the kernel's command line.

    Raises:
        LostGuest: it did not come up.
    """
    accelerator = acceleration.best(kernel.vmlinuz, kernel.modules, kernel.cache)
    image = startable(kernel.vmlinuz, kernel.cache)
    line = f"root=/dev/vda rw systemd.show_status=0 {parameters}".rstrip()
    machine = Machine(image, accelerator, MEMORY_MIB, command_line=line, disk=disk)
    with initrd.open("rb") as stream:
        started = boot.start(kernel.release, machine, stream.fileno(), BOOT_SECONDS)
    try:
        folder = ModuleFolder(kernel.modules)
        yield Guest(kernel.release, started.qemu, started.channel, folder, (), started.seconds)
    finally:
        started.end()


def goes_down(guest: Guest, seconds: float = 120) -> None:
    """Reboot: QEMU ends then (-no-reboot), and the disk can be booted again."""
    guest.start(["systemctl", "reboot"])
    assert guest.ended(seconds), "the machine does not go down"
    assert "Kernel panic" not in guest.console()
