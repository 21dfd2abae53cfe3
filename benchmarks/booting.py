# SPDX-License-Identifier: GPL-2.0-or-later
"""What a production machine pays: for installed patches when it boots, and for ``status``.

The patches are signed by somebody whom the machine trusts, and the command is the installed one.
"""

from __future__ import annotations

import difflib
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.measure import Figure, livegraft
from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.cli import main
from livegraft.kernel.kernel import Kernel
from livegraft.lab import package
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.image import Image
from livegraft.run import run
from livegraft.trust.store import FOLDER

UNIT = Path(__file__).resolve().parents[1] / "systemd/livegraft-boot.service"

COMMAND = "/usr/bin/livegraft"

SCRIPT = f"""\
#!/usr/bin/python3 -I
import sys
sys.path.insert(0, "/{PurePosixPath(package.PLACE).parent}")
from livegraft.cli.main import main
sys.exit(main())
"""
"""The command as Debian's package has it, and where its code is in a guest."""

UNITS = ("version", "loadavg", "uptime")
"""Of fs/proc: one patch for each."""

LIMIT = 0.5

IN_GUEST = """
import json, subprocess, sys, time
from pathlib import Path
from livegraft.runtime import booting, unload_all
from livegraft.runtime.installing import install

rounds, command, *paths = sys.argv[1:]

def timed():
    began = time.monotonic()
    done = subprocess.run(command.split(), capture_output=True, check=True)
    return {"seconds": time.monotonic() - began, **json.loads(done.stdout)}

timed()  # compiles the command line, as installing its package does
none, some = [], []
for _ in range(int(rounds)):
    none.append(timed())
for path in paths:
    install(Path(path))
for _ in range(int(rounds)):
    some.append(timed())
    unload_all()
    booting.settle()
print(json.dumps({"none": none, "some": some}))
"""
"""Runs what the unit runs, without a patch and with all; everything else on the machine waits."""


def added(_: Kernel, rounds: int, releases: Sequence[str]) -> Iterator[Figure]:
    """Patches of the kernel itself, under the kernel's own core: how long the boot unit takes."""
    for release in releases:
        kernel = pipeline.prepare(release, cache=Cache())
        document = _measure(kernel, rounds, IN_GUEST, of_the_unit())
        for each in document["some"]:
            outcomes = [(patch["outcome"], len(patch["signers"])) for patch in each["patches"]]
            if outcomes != [("loaded", 1)] * len(UNITS):
                raise RuntimeError(f"not all were loaded, with their signatures: {each}")
        none, some = _seconds(document)
        moved = statistics.median(
            sum(patch["transition_ms"] for patch in each["patches"]) for each in document["some"]
        )
        line = release.partition("-")[0].rpartition(".")[0]
        said = (
            f"{some:.2f} s, of that without a patch {none:.2f} s, transitions {moved / 1000:.2f} s"
        )
        what = f"{line}: boot unit with {len(UNITS)} signed patches"
        yield Figure(what, said, f"<= {LIMIT:g} s", some <= LIMIT)


STATUS_SECONDS, STATUS_MB = 0.15, 25

STATUS_IN_GUEST = """
import json, os, subprocess, sys, time
rounds, command, *paths = sys.argv[1:]
program = command.split()[0]
for path in paths:
    for verb in ("install", "load"):
        subprocess.run([program, verb, "--quiet", path], check=True, stdout=subprocess.DEVNULL)
found = []
for words in ("python3 -I -c pass", command):
    subprocess.run(words.split(), check=True, stdout=subprocess.DEVNULL)  # compiles it
    for _ in range(int(rounds)):
        began = time.monotonic()
        # The memory of who starts it counts as its own: this Python imports little.
        child = subprocess.Popen(words.split(), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        found.append({"seconds": time.monotonic() - began, "kib": usage.ru_maxrss})
print(json.dumps({"none": found[:len(found) // 2], "some": found[len(found) // 2:]}))
"""
"""Python that does nothing, and ``status --check`` of as many patches as there are."""


def status(_: Kernel, rounds: int, releases: Sequence[str]) -> Iterator[Figure]:
    """What monitoring pays for ``livegraft status --check``, in an emulated guest."""
    for release in releases:
        kernel = pipeline.prepare(release, cache=Cache())
        document = _measure(
            kernel, rounds, STATUS_IN_GUEST, f"{COMMAND} status --check --quiet --json"
        )
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


def of_the_unit() -> str:
    """The command line of the boot unit, that answers with a document."""
    (line,) = (each for each in UNIT.read_text().splitlines() if each.startswith("ExecStart="))
    return f"{line.removeprefix('ExecStart=')} --json"


def author(folder: Path) -> tuple[Path, Path]:
    """The files of a new key and its certificate, made as docs/trust.md does."""
    key, certificate = folder / "author.key", folder / "author.pem"
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "30"),
            *("-subj", "/CN=author", "-keyout", key, "-out", certificate),
        ]
    )
    return key, certificate


def command_line() -> dict[str, bytes | Path]:
    """What the command needs besides the runtime, which guests have."""
    folder = Path(main.__file__).parent
    return {f"/{package.PLACE}/cli/{each.name}": each for each in sorted(folder.glob("*.py"))}


def _measure(kernel: Kernel, rounds: int, code: str, command: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key, certificate = author(folder)
        modules: dict[str, bytes | Path] = {}
        for unit in UNITS:
            fix, module = folder / f"{unit}.patch", folder / f"{unit}.ko"
            fix.write_text(_fix(kernel.source, f"fs/proc/{unit}.c"))
            words = ("build", fix, "-k", kernel.release, "-o", module)
            livegraft(*words, "--sign", key, certificate)
            modules[f"/root/{module.name}"] = module
        files = modules | command_line()
        with boot(kernel.vmlinuz, kernel.modules, image=Image.OPENSSL, files=files) as guest:
            _prepare(guest, certificate)
            result = guest.python(code, str(rounds), command, *modules, timeout=1200)
            if result.status != 0:
                raise RuntimeError(result.stderr.decode())
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _prepare(guest: Guest, certificate: Path) -> None:
    """A machine with the command, that trusts one signer."""
    guest.check(["mkdir", "-p", "/var/lib", f"/{FOLDER}"])
    guest.put(f"/{FOLDER}/{certificate.name}", certificate)
    guest.put(COMMAND, SCRIPT.encode(), 0o755)


def _fix(source: Path, unit: str) -> str:
    """A fix that shows one line more."""
    before = (source / unit).read_text("utf-8")
    after = before.replace("\treturn 0;\n", '\tseq_puts(m, "livegraft\\n");\n\treturn 0;\n', 1)
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, f"a/{unit}", f"b/{unit}"))
