# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guests of ``make soak``: ``in_guest.py cycles MODEL COUNT``, ``in_guest.py faults``.

Talks to the engine's directory itself, not by the runtime: what fails here is the engine's. Prints
a line of JSON with what was done; ends with an error at the first thing that is not as it has to
be.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ENGINE = "livegraft_engine"
PAYLOAD = "lgt_payload"
TARGET = "lgt_target"
ROOT = Path("/sys/kernel/livegraft")
PATCH = ROOT / PAYLOAD
ANSWER = Path("/sys/module", TARGET, "parameters/answer")
DOZE = Path("/sys/module", TARGET, "parameters/doze")
WAKE = Path("/sys/module", TARGET, "parameters/wake")
WAIT_SECONDS = 300.0
PLENTY = 1 << 20
SLACK = 10
"""Two calls of a kind do not make the same number of allocations: slabs may have room or not."""


def module(name: str) -> str:
    return f"/ko/{name}.ko"


class Failure(Exception):
    """Something is not as it has to be."""


def require(fine: bool, what: str) -> None:
    if not fine:
        raise Failure(what)


def inject(nth: int, *call: str) -> tuple[int, int]:
    """A system call in which allocation `nth` fails: its errno, and how many fewer it made.

    The second is 0 if the allocation has failed; `nth` of 0 lets none fail.
    """
    argv = ["/root/inject", str(nth), *call]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    require(done.returncode == 0, f"inject {call}: {done.returncode} {done.stderr}")
    error, left = done.stdout.split()
    return int(error), int(left)


def allocations(*words: str) -> tuple[int, int]:
    """A system call in which none fails: its errno, and how many allocations it made."""
    error, left = inject(PLENTY, *words)
    return error, PLENTY - left


def call(*words: str) -> None:
    """A system call that has to succeed."""
    error, _ = inject(0, *words)
    require(error == 0, f"{words}: {os.strerror(error)}")


def loaded(name: str) -> bool:
    return Path("/sys/module", name, "initstate").exists()


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        require(time.monotonic() < end, f"waited in vain: {what}")
        time.sleep(0.01)


def value(name: str) -> str:
    return (PATCH / name).read_text().strip()


def is_new(place: str) -> bool:
    """Whether vmlinux, or the target module, runs the payload's code."""
    if place == "vmlinux":
        return Path("/proc/cmdline").read_text().startswith(PAYLOAD)
    return ANSWER.read_text() == "2\n"


def require_code(new: bool) -> None:
    places = ["vmlinux", *([TARGET] if loaded(TARGET) else [])]
    require(all(is_new(place) is new for place in places), f"code is not {'new' if new else 'old'}")


def require_absent() -> None:
    require(not loaded(PAYLOAD), f"{PAYLOAD} is there")
    require(not PATCH.exists(), f"{PATCH} is there")
    require_code(new=False)


def settle() -> None:
    wait_until(lambda: value("transition") == "0", "the transition's end")
    require(value("phase") == "applied", f"phase {value('phase')}")
    require_code(new=True)


def undo() -> None:
    call("write", str(PATCH / "enabled"), "0")
    undone()


def undone() -> None:
    wait_until(lambda: not PATCH.exists(), "the patch's directory to go")
    unload(PAYLOAD)
    require_absent()


def unload(name: str) -> None:
    """Who reads a module's files has a reference on it for a moment."""

    def gone() -> bool:
        error, _ = inject(0, "unload", name)
        require(error in (0, errno.EAGAIN, errno.EBUSY, errno.EWOULDBLOCK), os.strerror(error))
        return not error

    wait_until(gone, f"unload {name}")


def each_allocation(*words: str, first: int = 1) -> Iterator[int]:
    """The call again and again, with an allocation failing, the next one, ...; its errno.

    Ends with the call in which none fails, which has to succeed; that is not yielded.
    """
    for nth in range(max(first, 1), PLENTY):
        error, left = inject(nth, *words)
        if left:
            require(error == 0, f"{words}, no failure injected: {os.strerror(error)}")
            return
        COUNTS[words[0]] = COUNTS.get(words[0], 0) + 1
        yield error


COUNTS: dict[str, int] = {}


def cycles(model: str, count: int) -> dict[str, object]:
    """The payload comes and goes; every third time its target module goes and comes meanwhile."""
    began = time.monotonic()
    for number in range(count):
        if model == "native":
            native()
            continue
        if number % 5 == 4:
            call("write", str(ROOT / "options"), f"{PAYLOAD} no-direct")
        call("load", module(PAYLOAD), f"model={model}")
        if number % 3 == 2:
            unload(TARGET)
            call("load", module(TARGET))
        settle()
        call("write", str(PATCH / "enabled"), "0")
        if number % 2:
            # At once: whoever may remove the module may also load it again.
            call("reload", module(PAYLOAD), f"model={model}", PAYLOAD)
            settle()
            call("write", str(PATCH / "enabled"), "0")
        undone()
    return {
        "model": model,
        "cycles": count,
        "seconds": round(time.monotonic() - began, 1),
    }


def native() -> None:
    """The payload comes and goes under the kernel's own core."""
    patch = Path("/sys/kernel/livepatch", PAYLOAD)
    call("load", module(PAYLOAD), "model=native")
    wait_until(lambda: (patch / "transition").read_text() == "0\n", "the transition's end")
    require_code(new=True)
    call("write", str(patch / "enabled"), "0")
    wait_until(lambda: not patch.exists(), "the patch's directory to go")
    unload(PAYLOAD)
    require_absent()


def load_engine() -> None:
    """Whatever fails, the engine is there as a whole or not at all.

    The loader's own allocations come first and are not the engine's: they are left out.
    """
    unload(ENGINE)
    error, count = allocations("load", module(ENGINE))
    require(error == 0, os.strerror(error))
    unload(ENGINE)
    for error in each_allocation("load", module(ENGINE), first=count - OF_INIT):
        if error == 0:
            unload(ENGINE)
        require(not loaded(ENGINE), "the engine is there")
        require(not ROOT.exists(), f"{ROOT} is there")


OF_INIT = 80
"""More than the engine makes while it is loaded."""


def load_payload(model: str) -> None:
    """A payload that cannot be loaded leaves nothing behind.

    A model that does not exist shows how many allocations are made before it is the engine's turn.
    """
    error, before = allocations("load", module(PAYLOAD), "model=none")
    require(error == errno.EINVAL, os.strerror(error))
    words = ("load", module(PAYLOAD), f"model={model}")
    for error in each_allocation(*words, first=before - SLACK):
        if error == 0:
            settle()
            undo()
        require_absent()
    settle()


def load_target(_: str) -> None:
    """A target module that comes while its patch is there: patched, or not loaded."""
    unload(TARGET)
    for error in each_allocation("load", module(TARGET)):
        if error == 0:
            require_code(new=True)
            unload(TARGET)
        require(not loaded(TARGET), f"{TARGET} is there")
        require_code(new=True)
    require_code(new=True)


def undo_payload(model: str) -> None:
    """A write to enabled that fails leaves the patch as it was."""
    for error in each_allocation("write", str(PATCH / "enabled"), "0"):
        if error:
            require(value("phase") == "applied", f"after {os.strerror(error)}: {value('phase')}")
            require_code(new=True)
        else:
            undone()
            call("load", module(PAYLOAD), f"model={model}")
            settle()
    undone()


@contextmanager
def dozing() -> Iterator[None]:
    """A task that sleeps in a function of the patch: no change ends."""
    with subprocess.Popen(["sh", "-c", f"echo 1 > {DOZE}"]) as sleeper:
        try:
            stack = Path("/proc", str(sleeper.pid), "stack")
            wait_until(lambda: "doze" in stack.read_text(), "a task that dozes")
            yield
        finally:
            WAKE.write_text("1")


def reverse(model: str) -> None:
    """A change that cannot end is reversed, or goes on as it was."""
    with dozing():
        call("load", module(PAYLOAD), f"model={model}")
        require(value("phase") == "applying", f"phase {value('phase')} with a task that dozes")
        turn("0", "applying")
        undone()
        require(not is_new(TARGET), "the target's code is new")
    call("load", module(PAYLOAD), f"model={model}")
    settle()
    with dozing():
        call("write", str(PATCH / "enabled"), "0")
        require(value("phase") == "undoing", f"phase {value('phase')} with a task that dozes")
        turn("1", "undoing")
        settle()
    undo()


def turn(enabled: str, phase: str) -> None:
    """Write `enabled` until it is taken; until then the phase stays."""
    for error in each_allocation("write", str(PATCH / "enabled"), enabled):
        if error == 0:
            return
        require(error == errno.ENOMEM, os.strerror(error))
        require(value("phase") == phase, f"phase {value('phase')} after {os.strerror(error)}")


def finish_in_mover(model: str) -> None:
    """Allocations of the engine's own thread, which finishes each change."""
    mover = next(
        path.parent
        for path in Path("/proc").glob("[0-9]*/comm")
        if path.read_text() == "livegraft\n"
    )
    nth = mover / "task" / mover.name / "fail-nth"
    for number in range(1, PLENTY):
        call("load", module(PAYLOAD), f"model={model}")
        settle()
        nth.write_text(str(number))
        undo()
        injected = nth.read_text().strip() == "0"
        nth.write_text("0")
        if not injected:
            return
        COUNTS["mover"] = COUNTS.get("mover", 0) + 1


def options() -> None:
    for error in each_allocation("write", str(ROOT / "options"), f"{PAYLOAD} no-direct"):
        require(error in (0, errno.ENOMEM), os.strerror(error))
    require((ROOT / "options").read_text() == f"{PAYLOAD} no-direct\n", "options are not taken")
    call("write", str(ROOT / "options"), PAYLOAD)


def fail_all_kinds() -> None:
    """Let fail-nth count every allocation there is, and say nothing of it."""
    for kind in ("failslab", "fail_page_alloc"):
        folder = Path("/sys/kernel/debug", kind)
        (folder / "ignore-gfp-wait").write_text("N")
        (folder / "verbose").write_text("0")
    Path("/sys/kernel/debug/fail_page_alloc/min-order").write_text("0")


def faults(*models: str) -> dict[str, object]:
    """Every allocation of every call that the engine does something in fails once."""
    began = time.monotonic()
    fail_all_kinds()
    stages: list[tuple[str, Callable[[], None]]] = [("options", options)]
    for model in models:
        stages += [(f"{model} {each.__name__}", partial(each, model)) for each in OF_A_MODEL]
    stages.append(("engine", load_engine))
    for name, stage in stages:
        before = COUNTS.copy()
        stage()
        new = {key: n - before.get(key, 0) for key, n in COUNTS.items() if n != before.get(key, 0)}
        print(json.dumps({name: new, "at": round(time.monotonic() - began)}), flush=True)
    return {"injected": sum(COUNTS.values()), "seconds": round(time.monotonic() - began)}


OF_A_MODEL = (load_payload, load_target, undo_payload, reverse, finish_in_mover)


def main(verb: str, *arguments: str) -> None:
    done = cycles(arguments[0], int(arguments[1])) if verb == "cycles" else faults(*arguments)
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
