# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the livegraft command as a user does and measure what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = """
import json, os, resource, sys
report, *arguments = sys.argv[1:]
from livegraft.cli.main import main
status = 1
try:
    status = main(arguments)
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 1
finally:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open(report, "w") as handle:
        json.dump({"cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss}, handle)
sys.exit(status)
"""
"""The command's own process, without its children, says what it used: CPU seconds, and KiB."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Args:
        what: what was measured.
        measured: the figure, with its unit.
        target: what it has to be, in words; empty if it is for comparison only.
        holds: whether it is.
    """

    what: str
    measured: str
    target: str = ""
    holds: bool = True


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of the command cost.

    Args:
        seconds: from start to end.
        own_seconds: CPU seconds of its own Python, children (the compiler) not counted.
        own_mib: its largest resident memory, children not counted, in MiB.
        document: what it printed with ``--json``.
    """

    seconds: float
    own_seconds: float
    own_mib: float
    document: dict[str, Any]


def livegraft(*arguments: str | Path, cache: Path | None = None) -> Cost:
    """Run ``livegraft ARGUMENTS --json``, with the bytecode that an earlier run has left.

    Raises:
        RuntimeError: it ended with another status than 0.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        words = [sys.executable, "-c", COMMAND, str(report), *map(str, arguments), "--json"]
        began = time.monotonic()
        done = subprocess.run(
            words, stdout=subprocess.PIPE, env=environment, check=False, stdin=subprocess.DEVNULL
        )
        seconds = time.monotonic() - began
        if done.returncode != 0:
            text = done.stdout.decode(errors="replace")[-2000:]
            raise RuntimeError(f"livegraft {arguments[0]}: status {done.returncode}\n{text}")
        usage = json.loads(report.read_text())
        return Cost(seconds, usage["cpu"], usage["rss"] / 1024, json.loads(done.stdout))
