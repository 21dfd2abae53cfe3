# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with the runtime, and with modules that are built by hand.

The modules of guest/runtime_modules/ are not built by livegraft, so that a defect of the builder
cannot hide one of the runtime. ``lgt_payload`` is a payload for vmlinux and ``lgt_target``, and
``lgt_newer`` is another for the same functions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.documents import validate
from tests.resident import run_verb

from livegraft.elf import header
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.guest import BackgroundJob, Guest
from livegraft.lab.trial import FAULT
from livegraft.module import probes
from livegraft.run import run
from livegraft.runtime.identity import build_id

ROOT = Path(__file__).parents[1]
FIX = "a5" * 32
TARGET = "/sys/module/lgt_target/parameters"
PAYLOAD = "/ko/lgt_payload.ko"
NEWER = "/ko/lgt_newer.ko"

RUNTIME = ("python3", "-m", "livegraft.runtime")


def with_manifest(module: Path, kernel_id: str, target_id: str, release: str) -> bytes:
    """A payload's bytes with a manifest for this kernel and this build of the target."""

    def patched(name: str) -> dict[str, object]:
        told = {"state": "changed", "cold": name == "lgt_shiver"}
        return {"name": name, "sympos": 1, "unit": "lgt_payload.c"} | told

    manifest = {
        "format": 1,
        "name": module.stem,
        "kernel": {"release": release, "build_id": kernel_id, "source_version": "by hand"},
        "objects": [
            {
                "name": "vmlinux",
                "build_id": kernel_id,
                "functions": [patched("cmdline_proc_show")],
            },
            {
                "name": "lgt_target",
                "build_id": target_id,
                "functions": [patched(each) for each in ("lgt_answer", "lgt_doze", "lgt_shiver")],
            },
        ],
        "fix": {"sha256": FIX},
        "proof": True,
    }
    text = module.with_suffix(".json")
    text.write_text(json.dumps(manifest))
    out = module.with_suffix(".out")
    run(["objcopy", "--add-section", f".livegraft={text}", module, out])
    return out.read_bytes()


def _make_modules(kernel: Kernel, folder: Path) -> None:
    shutil.copytree(ROOT / "tests/guest/runtime_modules", folder)
    run(
        [
            *("make", "-C", kernel.headers, f"M={folder}", f"CC={kernel.compiler}"),
            *(f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={FIX}", "modules"),
        ],
        env=probes.environment(kernel),
    )
    for path in folder.glob("*.ko"):
        run(["strip", "--strip-debug", path])


@contextmanager
def booted(
    kernel: Kernel,
    folder: Path,
    more: Mapping[str, bytes | Path] | None = None,
    cmdline: str = "",
    disk: Path | None = None,
) -> Iterator[Guest]:
    """A guest with the modules in /ko, and lgt_target loaded; nothing may be wrong at its end.

    Args:
        kernel: what it boots.
        folder: a new one, where the modules are built; or that of another guest, for the same ones.
        more: other files for it.
        cmdline: added to the kernel's command line.
        disk: what is on its disk, if it has one.
    """
    folder = folder / "lgt"
    if not folder.exists():
        _make_modules(kernel, folder)
    note = header.parse((folder / "lgt_target.ko").read_bytes())
    target_id = build_id(bytes(note.section_data(".note.gnu.build-id") or b""))
    assert target_id is not None
    files: dict[str, bytes | Path] = {
        f"ko/{path.name}": path.read_bytes() for path in folder.glob("*.ko")
    }
    files |= dict(more or {})
    options: dict[str, Any] = {"cmdline": cmdline, "disk": disk, "timeout": 180}
    with boot(kernel.vmlinuz, kernel.modules, files=files, **options) as guest:
        kernel_id = guest.python(
            "from livegraft.runtime.identity import kernel_build_id; print(kernel_build_id())"
        ).text
        wrong = "00" * 20
        for name, module, ids in (
            ("lgt_payload", "lgt_payload", (kernel_id, target_id)),
            ("lgt_newer", "lgt_newer", (kernel_id, target_id)),
            ("other_kernel", "lgt_payload", (wrong, target_id)),
            ("other_target", "lgt_payload", (kernel_id, wrong)),
        ):
            payload = with_manifest(folder / f"{module}.ko", *ids, kernel.release)
            guest.put(f"/ko/{name}.ko", payload)
        guest.check(["insmod", "/ko/lgt_target.ko"])
        yield guest
        assert not [each for each in guest.kernel_log() if FAULT.search(each.text)]


def verb(guest: Guest, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a verb of the runtime: its status and its document."""
    result = run_verb(guest, *arguments, "--json")
    assert result.stdout, result.stderr.decode()
    document = json.loads(result.stdout)
    validate(arguments[0], document)
    return result.status, document


def answer(guest: Guest) -> str:
    return guest.get(f"{TARGET}/answer").decode().strip()


def patched_by(guest: Guest) -> str:
    return guest.get("/proc/cmdline").decode().partition(" was here")[0]


def loaded(guest: Guest) -> dict[str, str]:
    """The patches of ``status`` and their states."""
    status, document = verb(guest, "status")
    assert status == 0
    return {each["name"]: each["state"] for each in document["patches"]}


def left_clean(guest: Guest) -> None:
    """A test has to end as it began: no patch, the old code."""
    left = loaded(guest)
    if left:
        run_verb(guest, "unload", "--all")
    assert left == {}
    assert answer(guest) == "1"
    assert not patched_by(guest).startswith("lgt_")


@contextmanager
def dozing(guest: Guest, where: str = "doze", seen: str = "_doze+") -> Iterator[BackgroundJob]:
    """A task that sleeps inside lgt_doze and hears no signal, until the block is left or woken.

    Args:
        guest: where.
        where: the parameter of lgt_target that does that, or something like it.
        seen: what is on its stack then.
    """
    job = guest.start(["sh", "-c", f"echo 1 > {TARGET}/{where}; echo awake"])
    try:
        end = time.monotonic() + 60
        while guest.shell(f"cat /proc/[0-9]*/stack | grep -q '{seen}'").status != 0:
            assert time.monotonic() < end, f"nobody sleeps in {seen}"
            time.sleep(0.2)
        yield job
    finally:
        wake(guest)
        assert job.wait(60).text == "awake"


def wake(guest: Guest) -> None:
    guest.check(["sh", "-c", f"echo 1 > {TARGET}/wake"])


def in_transition(guest: Guest) -> None:
    """Wait until lgt_payload's transition is under way."""
    places = "/sys/kernel/live*/lgt_payload/transition"
    end = time.monotonic() + 60
    while guest.shell(f"grep -q 1 {places}").status != 0:
        assert time.monotonic() < end, "the transition has not begun"
        time.sleep(0.1)
