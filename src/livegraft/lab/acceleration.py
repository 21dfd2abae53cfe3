# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether KVM really works here.

``/dev/kvm`` may be there and guests in it hang or stop at an assertion (nested virtualisation that
is offered but broken). So KVM is used only after a guest has come up in it. What was found is kept
for as long as the machine runs this boot of this kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

from livegraft.cache import Cache
from livegraft.errors import LostGuest
from livegraft.lab.image import Image
from livegraft.lab.qemu import Accelerator
from livegraft.progress import SILENT, Progress

DEVICE = Path("/dev/kvm")
PROBE_SECONDS = 5.0
"""With KVM that works, the same guest is up in a second."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def best(vmlinuz: Path, modules: Path, cache: Cache, progress: Progress = SILENT) -> Accelerator:
    """The fastest accelerator that works on this machine.

    Args:
        vmlinuz: a kernel to try it with, if that has not been done yet.
        modules: its modules.
        cache: keeps what was found.
        progress: told of the trial.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Accelerator.TCG
    boot_id = _BOOT_ID.read_text().strip()

    def probe(path: Path) -> None:
        with progress.step("try KVM"):
            works = comes_up(vmlinuz, modules, cache)
        path.write_text(Accelerator.KVM.name if works else Accelerator.TCG.name)

    return Accelerator[cache.file(f"lab/kvm/{boot_id}", probe, progress).read_text()]


def comes_up(
    vmlinuz: Path, modules: Path, cache: Cache, accelerator: Accelerator = Accelerator.KVM
) -> bool:
    """Whether a guest comes up and does what it is told, within :data:`PROBE_SECONDS`."""
    from livegraft.lab.boot import boot

    try:
        with boot(
            vmlinuz,
            modules,
            image=Image.BARE,
            timeout=PROBE_SECONDS,
            accelerator=accelerator,
            cache=cache,
        ) as guest:
            return guest.run(["true"], timeout=PROBE_SECONDS).status == 0
    except LostGuest:
        return False
