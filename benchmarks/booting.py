# SPDX-License-Identifier: GPL-2.0-or-later
"""What a production machine pays: for installed patches when it boots, and for ``status``."""

from __future__ import annotations

import difflib
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, livegraft
from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot

UNITS = ("version", "loadavg", "uptime")
"""Of fs/proc: one patch for each."""

LIMIT = 0.5

IN_GUEST = """
import json, subprocess, sys, time
from pathlib import Path
from livegraft.runtime import booting, unload_all
from livegraft.runtime.installing import install

def timed():
    began = time.monotonic()
    done = subprocess.run(["python3", "-m", "livegraft.runtime", "boot", "--json"],
                          capture_output=True, check=True)
    return {"seconds": time.monotonic() - began, **json.loads(done.stdout)}

none, some = [], []
for _ in range(int(sys.argv[1])):
    none.append(timed())
for path in sys.argv[2:]:
    install(Path(path))
for _ in range(int(sys.argv[1])):
    some.append(timed())
    unload_all()
    booting.settle()
print(json.dumps({"none": none, "some": some}))
"""
"""Runs what the unit runs, without a patch and with all; everything else on the machine waits."""


def added(_: Kernel, rounds: int, releases: Sequence[str]) -> Iterator[Figure]:
    """Patches of the kernel itself, under the kernel's own core: how long the boot unit takes."""
    for release in releases:
        document = _measure(pipeline.prepare(release, cache=Cache()), rounds, IN_GUEST)
        for each in document["some"]:
            outcomes = [patch["outcome"] for patch in each["patches"]]
            if outcomes != ["loaded"] * len(UNITS):
                raise RuntimeError(f"not all were loaded: {each}")
        none, some = _seconds(document)
        moved = statistics.median(
            sum(patch["transition_ms"] for patch in each["patches"]) for each in document["some"]
        )
        line = release.partition("-")[0].rpartition(".")[0]
        said = (
            f"{some:.2f} s, of that Python's start {none:.2f} s, transitions {moved / 1000:.2f} s"
        )
        what = f"{line}: boot unit with {len(UNITS)} installed patches"
        yield Figure(what, said, f"<= {LIMIT:g} s", some <= LIMIT)


STATUS_SECONDS, STATUS_MB = 0.15, 25

STATUS_IN_GUEST = """
import json, os, subprocess, sys, time
from pathlib import Path
from livegraft.runtime import load
from livegraft.runtime.installing import install
for path in sys.argv[2:]:
    install(Path(path))
    load(Path(path))
found = []
for words in ("-c pass", "-m livegraft.runtime status --check --json"):
    for _ in range(int(sys.argv[1])):
        began = time.monotonic()
        # Not as a child of this Python, whose memory would count as its own.
        child = subprocess.Popen(["sh", "-c", f"python3 {words} >/dev/null; exit $?"])
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        found.append({"seconds": time.monotonic() - began, "kib": usage.ru_maxrss})
print(json.dumps({"none": found[:len(found) // 2], "some": found[len(found) // 2:]}))
"""
"""Python that does nothing, and ``status --check`` of as many patches as there are."""


def status(_: Kernel, rounds: int, releases: Sequence[str]) -> Iterator[Figure]:
    """What monitoring pays for ``livegraft status --check``, in an emulated guest."""
    for release in releases:
        document = _measure(pipeline.prepare(release, cache=Cache()), rounds, STATUS_IN_GUEST)
        none, some = _seconds(document)
        memory = max(each["kib"] for each in document["some"]) * 1024 / 1e6
        line = release.partition("-")[0].rpartition(".")[0]
        what = f"{line}: status --check of {len(UNITS)} patches, memory"
        yield Figure(what, f"{memory:.1f} MB", f"<= {STATUS_MB} MB", memory <= STATUS_MB)
        said = f"{some:.2f} s, of an empty Python {none:.2f} s"
        held = some <= STATUS_SECONDS
        yield Figure(f"{line}: status --check, time", said, f"<= {STATUS_SECONDS:g} s", held)


def _seconds(document: dict[str, Any]) -> Iterator[float]:
    """The median without a patch, and that with all."""
    return (statistics.median(one["seconds"] for one in document[key]) for key in ("none", "some"))


def _measure(kernel: Kernel, rounds: int, code: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files: dict[str, bytes | Path] = {}
        for unit in UNITS:
            fix, module = folder / f"{unit}.patch", folder / f"{unit}.ko"
            fix.write_text(_fix(kernel.source, f"fs/proc/{unit}.c"))
            livegraft("build", fix, "-k", kernel.release, "-o", module)
            files[f"/root/{module.name}"] = module
        with boot(kernel.vmlinuz, kernel.modules, files=files) as guest:
            guest.check(["mkdir", "-p", "/var/lib"])
            result = guest.python(code, str(rounds), *files, timeout=600)
            if result.status != 0:
                raise RuntimeError(result.stderr.decode())
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _fix(source: Path, unit: str) -> str:
    """A fix that shows one line more."""
    before = (source / unit).read_text("utf-8")
    after = before.replace("\treturn 0;\n", '\tseq_puts(m, "livegraft\\n");\n\treturn 0;\n', 1)
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, f"a/{unit}", f"b/{unit}"))
