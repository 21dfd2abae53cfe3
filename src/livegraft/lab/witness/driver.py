# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: load and unload the payloads of this folder by the kernel's own files.

Not by livegraft's runtime, so that a defect there cannot hide one of the engine. Python's standard
library only. ``-m livegraft.lab.witness.driver MODEL CYCLES SECONDS KIND=COUNT...`` prints what was
counted in so many cycles under that load (lgc_hammer.c).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TARGET = "/proc/lgc"
ENGINE = Path("/sys/kernel/livegraft")
NATIVE = Path("/sys/kernel/livepatch")
IMMEDIATE = Path("/sys/module/livegraft_engine/parameters/immediate")

SLUMBER = 13
"""Seconds after which the slumbers of the load have ended."""

SYS_DELETE_MODULE = 176
SYS_FINIT_MODULE = 313

_libc = ctypes.CDLL(None, use_errno=True)


class Stalled(Exception):
    """A change did not end in time; says who is in the way."""


def insert(name: str, **parameters: object) -> str:
    """Insert ``/ko/NAME.ko``: the errno's name, "" if it went well."""
    text = " ".join(f"{key}={value}" for key, value in parameters.items())
    with Path(f"/ko/{name}.ko").open("rb") as file:
        failed = _libc.syscall(SYS_FINIT_MODULE, file.fileno(), text.encode(), 0)
    return errno.errorcode[ctypes.get_errno()] if failed else ""


def remove(name: str) -> str:
    """Remove a module: the errno's name, "" if it went well."""
    failed = _libc.syscall(SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK)
    return errno.errorcode[ctypes.get_errno()] if failed else ""


def tell(command: str) -> int:
    """Write to the target's file (lgc_target.c says what); how much of it was taken."""
    file = os.open(TARGET, os.O_RDWR)
    try:
        return os.write(file, command.encode())
    finally:
        os.close(file)


def counts() -> dict[str, list[int]]:
    """What was counted: for each context calls by version, and those that were mixed."""
    rows = (line.split() for line in Path(TARGET).read_text().splitlines())
    return {name: [int(each) for each in numbers] for name, *numbers in rows}


class Patch:
    """A payload that is loaded.

    Args:
        name: of its module.
        model: that it was loaded with.
    """

    def __init__(self, name: str, model: str) -> None:
        self.name = name
        self.model = model
        self.folder = (NATIVE if model == "native" else ENGINE) / name

    def insert(self, **parameters: object) -> None:
        """Give it to the kernel.

        Args:
            parameters: of the module, beside the model.

        Raises:
            OSError: the kernel does not take it.
        """
        failed = insert(self.name, model=self.model, **parameters)
        if failed:
            said = f"the kernel does not take {self.name}: {failed}"
            raise OSError(getattr(errno, failed), said)

    def kick(self) -> None:
        """Have the kernel's own core look at all tasks now.

        Raises:
            OSError: the payload has no such parameter.
        """
        Path(f"/sys/module/{self.name}/parameters/kick").write_text("1")

    def read(self, name: str) -> str:
        """A file of its directory."""
        return (self.folder / name).read_text().strip()

    def write(self, name: str, text: str) -> str:
        """Write a file of its directory: the errno's name, "" if it went well."""
        try:
            (self.folder / name).write_text(text)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""

    @property
    def changing(self) -> bool:
        """Whether tasks change sides."""
        try:
            return self.read("transition") == "1"
        except OSError:
            return False

    def settled(self, seconds: float = 60) -> float:
        """Wait until all tasks have changed sides; how many seconds that took.

        Raises:
            Stalled: they have not.
        """
        began = time.monotonic()
        while self.changing:
            if self.model == "native":
                self.kick()
            if time.monotonic() - began > seconds:
                raise Stalled(self._in_the_way())
            time.sleep(0.02 if self.model == "native" else 0.001)
        return time.monotonic() - began

    def gone(self, seconds: float = 60) -> None:
        """Wait until it may be removed, and remove it.

        Raises:
            Stalled: it is still there.
        """
        end = time.monotonic() + seconds
        while self.folder.exists() or remove(self.name):
            if time.monotonic() > end:
                raise Stalled(f"{self.name} does not go")
            time.sleep(0.001)

    def _in_the_way(self) -> str:
        if self.model == "native":
            return f"{self.name}: native"
        return f"{self.name}: {self.read('left')} left: {self.read('blockers')}"


def load(name: str, model: str, seconds: float = 60) -> Patch:
    """Insert a payload and wait until it is in force."""
    patch = Patch(name, model)
    patch.insert()
    patch.settled(seconds)
    return patch


def unload(patch: Patch, seconds: float = 60) -> None:
    """Undo a patch and remove its module."""
    patch.write("enabled", "0")
    patch.settled(seconds)
    patch.gone(seconds)


def cycle(model: str, seconds: float) -> tuple[float, float]:
    """Load and unload once, at most `seconds` each; how long both took, in milliseconds."""
    tell("v1")
    began = time.monotonic()
    if IMMEDIATE.exists():
        IMMEDIATE.write_text("1")
    patch = load("lgc_one", model, seconds)
    applied = time.monotonic() - began
    if IMMEDIATE.exists():
        IMMEDIATE.write_text("0")
    time.sleep(0.3)  # long enough for everybody to have called the new version
    tell("v0")
    began = time.monotonic()
    patch.write("enabled", "0")
    patch.settled(seconds)
    undone = time.monotonic() - began
    patch.gone(seconds)
    tell("v-1")
    return applied * 1000, undone * 1000


@contextmanager
def loaded(kinds: list[str]) -> Iterator[None]:
    """Processes (lgc_hammer.c) that are there for as long as the context lasts.

    Args:
        kinds: which, and how many of each.

    Raises:
        RuntimeError: they do not start, or one of them ended.
    """
    with subprocess.Popen(["/root/hammer", *kinds], stdout=subprocess.PIPE) as hammer:
        try:
            if not hammer.stdout or hammer.stdout.readline() != b"ready\n":
                raise RuntimeError("the load does not start")
            yield
            if hammer.poll() is not None:
                raise RuntimeError(f"the load ended with status {hammer.returncode}")
        finally:
            hammer.kill()


def main(model: str, cycles: int, seconds: float, kinds: list[str]) -> None:
    """Print a document of what was counted while the load ran."""
    os.nice(-20)
    times: list[tuple[float, float]] = []
    stalled = None
    with loaded(kinds):
        tell("r0")
        try:
            times.extend(cycle(model, seconds) for _ in range(cycles))
            if model == "native":
                time.sleep(SLUMBER)
        except Stalled as error:
            stalled = str(error)
    json.dump({"times": times, "counts": counts(), "stalled": stalled}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
