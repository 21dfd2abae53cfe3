# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzer of `make fuzz`: atheris, on :mod:`tests.fuzz.objects`.

``python -m tests.fuzz.run SECONDS CORPUS...`` adds what it finds worth keeping to the first corpus.
Atheris loses memory, 80 kB with each instrumented comparison (3.0.0; the same comparisons without
it none): so that a bound on memory can find a defect, the fuzzer runs for two minutes at a time.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STRETCH = 120
"""Seconds."""

LIMITS = (
    "-runs=40000",
    "-max_len=8192",
    "-timeout=15",
    "-rss_limit_mb=1500",
    "-print_final_stats=1",
)
"""Of a stretch; bytes of an input; seconds for one; MiB of the process."""

ONE = "one"
"""The first argument of a stretch's own process, with those of libFuzzer behind."""


def fuzz(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached."""
    import atheris  # type: ignore[import-untyped, unused-ignore]

    fuzzer: Any = atheris
    with fuzzer.instrument_imports(include=["livegraft"]):
        from tests.fuzz import objects

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        return objects.mutate(data, seed, lambda old: bytes(fuzzer.Mutate(old, size)))[:size]

    fuzzer.Setup([sys.argv[0], *arguments], objects.check, custom_mutator=mutated)
    fuzzer.Fuzz()


def main(seconds: float, corpora: list[str]) -> int:
    """Fuzz in stretches until the time is over or something is found: 0, or libFuzzer's status."""
    end = time.monotonic() + seconds
    total = 0
    kept = f"-artifact_prefix={Path(corpora[0], 'found-')}"
    while (left := end - time.monotonic()) >= 1:
        words = [f"-max_total_time={min(int(left), STRETCH)}", *LIMITS, kept, *corpora]
        done = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.run", ONE, *words],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert done.stderr is not None
        for line in done.stderr:
            sys.stderr.write(line)
            if found := re.match(r"stat::number_of_executed_units:\s*(\d+)", line):
                total += int(found[1])
        if done.wait():
            return done.returncode
    sys.stdout.write(f"{total} executions, nothing found\n")
    return 0 if total else 1


if __name__ == "__main__":
    if sys.argv[1] == ONE:
        fuzz(sys.argv[2:])
    else:
        sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
