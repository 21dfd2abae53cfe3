# SPDX-License-Identifier: GPL-2.0-or-later
"""Try a live patch in a guest: load it, run a script, unload it, and say what the kernel said."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livegraft.cache import Cache
from livegraft.errors import Exit, LostGuest, PatchError
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest, KernelMessage, Result
from livegraft.progress import SILENT, Progress
from livegraft.trust import appended

SCRIPT_SECONDS = 300.0
_SCRIPT = "/root/script"
_ENGINE = "livegraft_engine"
"""The engine module's name."""

_TALK_SECONDS = 30.0
"""What starting Python and looking around may take besides the transition."""

FAULT = re.compile(
    r"BUG:|WARNING:|Oops|general protection|kernel BUG at|Unable to handle|hung_task|Call Trace"
)
"""What a kernel's log says of a fault."""


class FailedInGuest(PatchError):
    """The runtime in the guest failed; this carries its error, and the status it ended with.

    Args:
        document: the member ``error`` of its document.
        status: its exit status.
    """

    def __init__(self, document: dict[str, Any], status: int) -> None:
        super().__init__(document["object"], document["message"], document["remedy"])
        self.document = document
        self.exit_code = Exit(status)

    def as_json(self) -> dict[str, object]:
        return dict(self.document)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a patch in a guest.

    Args:
        name: the patch's module name.
        model: the consistency model that it ran under.
        state: of the patch before the script ran.
        transition_ms: from the kernel's "starting patching transition" to its "patching complete";
            None if its log does not tell.
        unload_transition_ms: the same for undoing.
        script: how the script ended; None if there was none.
        tainted: ``/proc/sys/kernel/tainted`` at the end (see the kernel's documentation,
            admin-guide/tainted-kernels).
        log: the kernel's messages since before the patch was loaded.
        timings: seconds by step: boot, engine, load, script, unload.
        load: the document of ``load`` in the guest.
        unload: the same of ``unload``.
    """

    name: str
    model: str
    state: str
    transition_ms: float | None
    unload_transition_ms: float | None
    script: Result | None
    tainted: int
    log: tuple[KernelMessage, ...]
    timings: dict[str, float]
    load: dict[str, Any] = field(repr=False)
    unload: dict[str, Any] = field(repr=False)

    @property
    def faults(self) -> tuple[str, ...]:
        """Messages of the log that speak of a fault in the kernel."""
        return tuple(each.text for each in self.log if FAULT.search(each.text))

    def as_json(self) -> dict[str, object]:
        """The document of ``try``."""
        script = self.script
        return {
            "name": self.name,
            "model": self.model,
            "state": self.state,
            "transition_ms": self.transition_ms,
            "unload_transition_ms": self.unload_transition_ms,
            "script_status": None if script is None else script.status,
            "script_timed_out": script is not None and script.timed_out,
            "script_stdout": None if script is None else script.stdout.decode("utf-8", "replace"),
            "script_stderr": None if script is None else script.stderr.decode("utf-8", "replace"),
            "tainted": self.tainted,
            "faults": list(self.faults),
            "log": [f"[{each.seconds:.6f}] {each.text}" for each in self.log],
            "timings": {name: round(seconds, 3) for name, seconds in self.timings.items()},
        }


def try_patch(
    vmlinuz: Path,
    modules: Path,
    patch: Path,
    *,
    targets: Sequence[str] = (),
    script: bytes | None = None,
    model: str = "native",
    engine: Path | None = None,
    foreign: bool = False,
    cmdline: str = "",
    cpu: str = "max",
    timeout: float = 60.0,
    script_timeout: float = SCRIPT_SECONDS,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> Trial:
    """Boot a kernel in a guest, load a patch, run a script, unload the patch.

    Args:
        vmlinuz: the kernel as the distribution ships it.
        modules: its ``/lib/modules/RELEASE``.
        patch: the live patch.
        targets: modules of the distribution that are loaded before the patch.
        script: run as root while the patch is on; a program, or lines of shell without ``#!``.
        model: the consistency model.
        engine: the engine's module, which any model but ``native`` needs.
        foreign: the patch was not built by livegraft.
        cmdline: added to the kernel's command line.
        cpu: QEMU's model of the processors.
        timeout: seconds for each transition.
        script_timeout: seconds for the script, which is killed then.
        cache: where guest images are kept.
        progress: told of the steps.

    Raises:
        FailedInGuest: the patch was not loaded, or not unloaded, and why.
        GuestCommandFailed: the kernel does not take the engine.
        LostGuest: the guest hung or panicked.
        UsageError: the kernel has no module of that name.
    """

    # Without its signature: what that covers is what is tried, and a guest trusts nobody.
    content, _ = appended.split(patch.read_bytes(), str(patch))
    files: dict[str, bytes | Path] = {f"/root/{patch.name}": content}
    with boot(
        vmlinuz,
        modules,
        load=targets,
        files=files,
        cmdline=cmdline,
        cpu=cpu,
        cache=cache,
        progress=progress,
    ) as guest:
        return _try(guest, patch, script, model, engine, foreign, timeout, script_timeout, progress)


def _try(
    guest: Guest,
    patch: Path,
    script: bytes | None,
    model: str,
    engine: Path | None,
    foreign: bool,
    timeout: float,
    script_timeout: float,
    progress: Progress,
) -> Trial:
    before = guest.kernel_log()[-1].sequence
    engine_seconds = _insert_engine(guest, engine, progress)
    options = [f"/root/{patch.name}", "--model", model, *(["--foreign"] if foreign else [])]
    with progress.step("load"):
        loaded, load_seconds = _runtime(guest, "load", timeout, *options)
    name = str(loaded["name"])
    ran = _run_script(guest, script, script_timeout, progress)
    with progress.step("unload"):
        unloaded, unload_seconds = _runtime(guest, "unload", timeout, name)
    timings = {"boot": guest.boot_seconds, "load": load_seconds, "unload": unload_seconds}
    timings |= {} if engine is None else {"engine": engine_seconds}
    return Trial(
        name=name,
        model=str(loaded["model"]),
        state=str(loaded["state"]),
        transition_ms=loaded["transition_ms"],
        unload_transition_ms=unloaded["unloaded"][0]["transition_ms"],
        script=ran,
        tainted=int(guest.get("/proc/sys/kernel/tainted")),
        log=tuple(each for each in guest.kernel_log() if each.sequence > before),
        timings=timings | ({} if ran is None else {"script": ran.seconds}),
        load=loaded,
        unload=unloaded,
    )


def _insert_engine(guest: Guest, engine: Path | None, progress: Progress) -> float:
    """Put the engine into the guest's kernel; how long that took, in seconds."""
    began = time.monotonic()
    if engine is not None:
        with progress.step("load engine"):
            guest.insert(_ENGINE, engine.read_bytes())
    return time.monotonic() - began


def _run_script(
    guest: Guest, script: bytes | None, timeout: float, progress: Progress
) -> Result | None:
    if script is None:
        return None
    with progress.step("script"):
        guest.put(_SCRIPT, script, 0o755)
        return guest.run([_SCRIPT], timeout=timeout)


def _runtime(
    guest: Guest, verb: str, timeout: float, *arguments: str
) -> tuple[dict[str, Any], float]:
    """Run a verb of the runtime in the guest: its document, and how long it took.

    Raises:
        FailedInGuest: it failed.
    """
    result = guest.run(
        [
            *("python3", "-m", "livegraft.runtime", verb, *arguments),
            *("--timeout", f"{timeout:g}", "--json"),
        ],
        # An undo that follows a transition out of time may take as long again.
        timeout=2 * timeout + _TALK_SECONDS,
    )
    if result.timed_out:
        raise LostGuest(guest.name, f"'{verb}' hangs in the kernel", guest.console()[-4000:])
    try:
        document: dict[str, Any] = json.loads(result.stdout)
    except ValueError as error:
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PatchError(
            f"{verb} (in the guest)",
            f"ended with status {result.status}: {said[-1] if said else 'it said nothing'}",
        ) from error
    if result.status != 0:
        raise FailedInGuest(document["error"], result.status)
    return document, result.seconds
