# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine in a kernel that looks for defects: ``python -m tests.soak.run``.

Three parts, each in a guest of its own: defects on purpose, which have to be found; patches that
come and go under load; every allocation failing once. Whatever the kernel's own checks find in the
latter two is a failure, and so is what is left afterwards.

With ``--shipped`` it is the kernel as Debian ships it, fast and with few checks: patches come and
go many times, and the counts of its slab caches have to be what they were.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.soak.kernel import SoakKernel, shipped_kernel, soak_kernel
from tests.soak.splats import splats

from livegraft.cli.progress import shown
from livegraft.errors import LivegraftError
from livegraft.lab.boot import boot
from livegraft.lab.guest import BackgroundJob, Guest
from livegraft.run import run

MODELS = ("hybrid", "stop", "task")
HERE = Path(__file__).parent
MEMORY_MIB = 2048
BOOT_SECONDS = 300.0
LEAK_SECONDS = 7.0
"""kmemleak reports nothing that is younger than 5 s."""

LOOK_SECONDS = 15.0

LOAD = {
    "sleepers": "for i in $(seq 60); do sleep 100000 & done; wait",
    "hog": "while :; do :; done",
    "forks": "while :; do (:); /init 2>/dev/null; done",
    "readers": "while :; do cat /proc/cmdline >/dev/null; done",
}
"""What else runs in the guest while patches come and go."""

DEFECTS = {
    "atomic": "sleeping function called",
    "locks": "possible circular locking",
    "freed": "KASAN",
}
"""Defects on purpose (defect/lgt_defect.c), and what the log says of each. KASAN comes last: its
report switches lockdep off."""


class Defect(LivegraftError):
    """The kernel's checks have found something, or something is left over."""


def program(source: Path, folder: Path) -> bytes:
    """A program for the guest."""
    made = folder / source.stem
    run([*("cc", "-O2", "-static", "-s", "-o"), made, source])
    return made.read_bytes()


@contextmanager
def soaking(kernel: SoakKernel, files: Mapping[str, bytes | Path], log: Path) -> Iterator[Guest]:
    """A guest whose log is kept."""
    more = " kmemleak=on no_hash_pointers" if kernel.checks else ""
    with boot(
        kernel.vmlinuz,
        kernel.modules,
        files=files,
        cmdline=f"log_buf_len=8M{more}",
        memory_mib=MEMORY_MIB,
        timeout=BOOT_SECONDS,
    ) as guest:
        try:
            require_clean(guest, "while it booted")
            if kernel.checks:
                tell_kmemleak(guest, "scan=off")
                tell_kmemleak(guest, "clear")
            yield guest
        finally:
            log.write_text(guest.console() + kernel_log(guest))


@contextmanager
def with_engine(guest: Guest, *, checks: bool = True) -> Iterator[None]:
    """The engine and the module to be patched are loaded; afterwards nothing is left of them."""
    before = state(guest)
    guest.check(["insmod", "/ko/livegraft_engine.ko"])
    guest.check(["insmod", "/ko/lgt_target.ko"])
    yield
    guest.check(["rmmod", "livegraft_engine"], timeout=300)
    guest.check(["rmmod", "lgt_target"])
    require_clean(guest, "by then")
    if checks and (found := leaks(guest)):
        raise Defect("kmemleak", found)
    if (after := state(guest)) != before:
        raise Defect("guest", f"is not as it was: {after}, was {before}")


def kernel_log(guest: Guest) -> str:
    """The whole log, also of a guest that is gone: then its console."""
    try:
        return "".join(f"[{each.seconds:.6f}] {each.text}\n" for each in guest.kernel_log())
    except LivegraftError as error:
        return f"{error}\n"


def require_clean(guest: Guest, when: str) -> None:
    """No check has found anything yet."""
    if found := splats(each.text for each in guest.kernel_log()):
        raise Defect("kernel log", f"{when}: {'; '.join(found[:5])}")


def tell_kmemleak(guest: Guest, word: str) -> None:
    """It refuses all but "clear" when it is off, or has given up."""
    guest.check(["sh", "-c", f"echo {word} > /sys/kernel/debug/kmemleak"], timeout=600)


def leaks(guest: Guest) -> str:
    """What kmemleak has found since it was cleared."""
    time.sleep(LEAK_SECONDS)
    for _ in range(2):  # an object may be seen as lost while a pointer to it moves
        tell_kmemleak(guest, "scan")
    return guest.get("/sys/kernel/debug/kmemleak").decode("utf-8", "replace")


def slabs(guest: Guest) -> dict[str, int]:
    """Objects in use by slab cache (/proc/slabinfo), once what can be given back has been.

    A slab that a processor holds counts as full; to shrink a cache takes all of them from the
    processors (``__kmem_cache_shrink``, mm/slub.c).
    """
    time.sleep(LEAK_SECONDS)  # RCU
    guest.check(["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"], timeout=120)
    guest.check(["sh", "-c", "for each in /sys/kernel/slab/*/shrink; do echo 1 > $each; done"])
    rows = [line.split() for line in guest.get("/proc/slabinfo").decode().splitlines()[2:]]
    return {row[0]: int(row[1]) for row in rows}


def require_no_growth(before: dict[str, int], after: dict[str, int], cycles: int) -> None:
    """No cache has grown as it would if a cycle in two left one object behind.

    Less is noise: SLUB counts objects of a processor's own slabs as in use.
    """
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    if found := {name: more for name, more in grown.items() if 2 * more > cycles}:
        raise Defect("slab caches", f"have grown in {cycles} cycles: {found}")


def state(guest: Guest) -> dict[str, str]:
    """What has to be as it was: modules, redirected functions."""
    rows = (line.split() for line in guest.get("/proc/modules").decode().splitlines())
    modules = sorted(f"{row[0]}:{row[2]}" for row in rows)  # and how many use it
    functions = guest.get("/sys/kernel/debug/tracing/enabled_functions").decode()
    return {"modules": " ".join(modules), "functions": functions}


def control(guest: Guest) -> None:
    """Defects on purpose are found, each of them: else it says nothing that none are found."""
    for kind, message in DEFECTS.items():
        guest.run(["insmod", "/ko/lgt_defect.ko", f"kind={kind}"])
        found = splats(each.text for each in guest.kernel_log())
        if not any(message in each for each in found):
            raise Defect(f"defect '{kind}' on purpose", f"was not found: {found}")
    guest.run(["insmod", "/ko/lgt_defect.ko", "kind=leak"])
    if 'comm "insmod"' not in (found_leaks := leaks(guest)):
        raise Defect("defect 'leak' on purpose", f"was not found: {found_leaks}")
    print("defects on purpose are found", flush=True)


def under_load(guest: Guest, model: str, cycles: int) -> None:
    """A patch comes and goes while others sleep, work, and fork."""
    with ExitStack() as stack:
        for script in LOAD.values():
            job = guest.start(["sh", "-c", script])
            stack.callback(BackgroundJob.kill, job, 9)
        in_guest(guest, "cycles", model, str(cycles))


def many_cycles(guest: Guest, cycles: int) -> None:
    """So many of each model, a tenth of that of the kernel's own core, and what they leave behind.

    First the negative control: a module that leaves an object behind each time is found out.
    """
    before = slabs(guest)
    for _ in range(max(cycles // LEAKED, 1)):
        guest.run(["insmod", "/ko/lgt_defect.ko", "kind=leak"])
    try:
        require_no_growth(before, slabs(guest), cycles)
    except Defect:
        print("a leak on purpose is found", flush=True)
    else:
        raise Defect("a leak on purpose", "was not found")
    for model in (*MODELS, "native"):
        count = cycles if model in MODELS else max(cycles // 10, 1)
        under_load(guest, model, max(count // 20, 1))
        before = slabs(guest)
        under_load(guest, model, count)
        require_no_growth(before, slabs(guest), count)


LEAKED = 20
"""Objects that lgt_defect leaves behind each time."""


def in_guest(guest: Guest, *arguments: str) -> None:
    """Run in_guest.py, pass on what it has to say, and look at the log all the time."""
    job = guest.start(["python3", "/root/in_guest.py", *arguments])
    told = 0
    while running := job.running or told < len(job.output()):
        lines = job.output()[told:]
        print(lines.decode(), end="", flush=True)
        told += len(lines)
        require_clean(guest, f"in {' '.join(arguments)}")
        time.sleep(LOOK_SECONDS if running else 0)
    result = job.wait()
    if result.status:
        raise Defect(f"in_guest.py {arguments}", result.stderr.decode("utf-8", "replace"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", default="6.1.0-55-amd64", help="whose source is built")
    parser.add_argument("--cycles", type=int, default=30, help="of each model, under load")
    parser.add_argument("--shipped", action="store_true", help="in the kernel as it is shipped")
    parser.add_argument("--log", type=Path, default=HERE.parents[1] / "build/soak")
    parser.add_argument("--parts", default="control,load,faults", help="what to run")
    chosen = parser.parse_args()
    progress = shown(quiet=False, verbose=False, may_draw=False)
    chosen.log.mkdir(parents=True, exist_ok=True)
    make = shipped_kernel if chosen.shipped else soak_kernel
    kernel = make(chosen.release, progress)
    parts = ["many"] if chosen.shipped else chosen.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        modules = kernel.make_modules(folder)
        files: dict[str, bytes | Path] = {f"ko/{key}.ko": data for key, data in modules.items()}
        program(HERE / "inject.c", folder)
        files |= {"root/inject": folder / "inject", "root/in_guest.py": HERE / "in_guest.py"}
        try:
            for part in parts:
                with soaking(kernel, files, chosen.log / f"{part}.log") as guest:
                    if part == "control":
                        control(guest)
                        continue
                    with with_engine(guest, checks=kernel.checks):
                        if part == "many":
                            many_cycles(guest, chosen.cycles)
                        elif part == "load":
                            for model in MODELS:
                                under_load(guest, model, chosen.cycles)
                        else:
                            in_guest(guest, "faults", *MODELS)
        except LivegraftError as error:
            print(f"{error}\nlogs: {chosen.log}", file=sys.stderr)
            return error.exit_code
    print(f"nothing found; logs: {chosen.log}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
