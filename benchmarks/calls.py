# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine's stub costs a call: ``kmod/stub.S`` itself, in user space on this processor.

Emulation shows nothing of how a processor predicts returns. The least that a stub can cost, if it
keeps calls and returns paired, is one return that is predicted wrong (``floor``); what that takes
differs by a factor of three between processors, so both are printed.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure
from livegraft.kernel.kernel import Kernel

HERE = Path(__file__).resolve().parent
KMOD = HERE.parent / "kmod"
LIMIT = 6.0
"""Nanoseconds that a call may take longer."""


def calls(kernel: Kernel, rounds: int) -> Iterator[Figure]:
    """An empty function, called plainly and through the stub, at several depths of callers."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "callcost")
        flags = ["-O2", "-no-pie", "-fno-pie", "-fcf-protection=none", "-z", "noexecstack"]
        sources = [HERE / "stub/callcost.c", KMOD / "stub.S"]
        include = [f"-I{HERE / 'stub'}", f"-I{KMOD}"]
        subprocess.run(
            [kernel.compiler, *flags, *include, "-o", program, *sources], check=True, timeout=60
        )
        printed = subprocess.run(
            [program, str(4 * rounds + 1)], check=True, capture_output=True, text=True, timeout=600
        ).stdout
    lines = [line.split() for line in printed.splitlines()]
    times = {(way, int(callers)): float(value) for way, callers, value in lines}
    for callers in sorted({callers for _, callers in times}):
        plain = times["plain", callers]
        extra, floor, jump = (times[way, callers] - plain for way in ("stub", "floor", "jump"))
        yield Figure(
            f"stub, {callers} callers above, more per call",
            f"{extra:.1f} ns; one mispredicted return alone {floor:.1f} ns,"
            f" unpaired {jump:.1f} ns, the plain call {plain:.1f} ns",
            f"<= {LIMIT:g} ns",
            extra <= LIMIT,
        )
