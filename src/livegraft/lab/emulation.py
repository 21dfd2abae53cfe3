# SPDX-License-Identifier: GPL-2.0-or-later
"""A known weakness of QEMU's emulation with a thread per processor, and what is done about it.

The kernel rewrites code that other processors may run: it puts an int3 there, and takes it away
when every processor has been told (arch/x86/kernel/alternative.c, ``text_poke_bp_batch``). The
emulation sometimes still runs a translation with the int3, for which nobody is prepared any more:
"Oops: int3". Seen with QEMU 7.2 in 1 of 45 boots of 6.12, which rewrites much, and in none of 60 of
6.1. A processor that exists does not do that, so nothing that was tried in such a guest is to
blame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from livegraft.errors import LostGuest
from livegraft.lab.qemu import Accelerator
from livegraft.progress import SILENT, Progress

R = TypeVar("R")

EMULATOR_FAULT = "QEMU's emulation let a processor run code that had been rewritten already"


def emulator_failed(console: str) -> bool:
    """Whether a guest's console tells of that weakness."""
    return "Oops: int3: 0000" in console or "int3: 0000 [#1]" in console


def despite_emulation(attempt: Callable[[Accelerator | None], R], progress: Progress = SILENT) -> R:
    """Try something in a guest; once more with one processor at a time if the emulation failed.

    Args:
        attempt: boots a guest with the accelerator that it is given (None: the best one).
        progress: told of the second attempt.

    Raises:
        LostGuest: the guest was lost for another reason, or again.
    """
    try:
        return attempt(None)
    except LostGuest as error:
        if not emulator_failed(error.console):
            raise
        progress.note(f"{EMULATOR_FAULT}; trying again with one processor at a time")
    return attempt(Accelerator.IN_TURN)
