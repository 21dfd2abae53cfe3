# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest: a distribution's kernel in QEMU, and commands run in it.

Two things are kept apart: a command that fails has a :class:`Result` with its status; a guest that
hangs, panics or ends raises :class:`~livegraft.errors.LostGuest`, and then nothing can be said
about what was tested in it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from livegraft.errors import LivegraftError, LostGuest
from livegraft.lab.channel import Channel, Disconnected, Job
from livegraft.lab.modules import ModuleFolder, canonical
from livegraft.lab.qemu import Qemu

BOOT_SECONDS = 60.0
"""An emulated guest is up in 2 s; on a machine that is busy otherwise it takes longer."""

RUN_SECONDS = 60.0

_LOOK_SECONDS = 5.0
"""How often a guest is asked whether it is well while a command runs."""

_ALIVE_SECONDS = 15.0
"""A guest that does not answer for so long hangs. A busy machine makes even a sound one slow."""

_KILL_SECONDS = 2.0
_LINES_BEFORE, _LINES_AFTER = 130, 60
"""Of a console, around the line that tells of a panic. An oops that ends in one is told before it,
with the registers and the stack, and what runs on the other processors may go on writing."""

_PANIC = re.compile(r"Kernel panic - not syncing: .*")


@dataclass(frozen=True, slots=True)
class Result:
    """How a command in a guest ended.

    Args:
        status: its exit status; negative for the number of the signal that ended it.
        stdout: what it printed.
        stderr: what it complained about.
        seconds: how long it took, the way there and back included.
        timed_out: it did not end in time and was sent SIGKILL; the guest is well. The status is
            that of the signal, even if the command is stuck in the kernel and cannot die of it.
    """

    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False

    @property
    def text(self) -> str:
        """What it printed, as text without the last line's end."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")


class KernelMessage(NamedTuple):
    """A message of the kernel's log.

    Args:
        seconds: since boot.
        level: as syslog(2) has them: 0 the worst, 7 for debugging.
        text: the message.
        sequence: its number; each message has one more than the one before.
    """

    seconds: float
    level: int
    text: str
    sequence: int


class GuestCommandFailed(LivegraftError):
    """A command that had to succeed in a guest did not (:meth:`Guest.check`)."""

    def __init__(self, argv: Sequence[str], result: Result) -> None:
        self.result = result
        output = (result.stderr or result.stdout).decode("utf-8", "replace").strip()
        last = output.splitlines()[-1] if output else "it printed nothing"
        how = "took too long" if result.timed_out else f"ended with status {result.status}"
        super().__init__(f"{argv[0]} (in the guest)", f"{how}: {last}")


class BackgroundJob:
    """A command that runs in a guest beside others."""

    def __init__(self, guest: Guest, argv: Sequence[str], job: Job) -> None:
        self._guest = guest
        self._job = job
        self._started = time.monotonic()
        self.argv = tuple(argv)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet.

        Raises:
            LostGuest: the guest is gone.
        """
        return not self._guest._ended(self._job, 0)

    def output(self) -> bytes:
        """What it has printed so far."""
        return bytes(self._job.stdout)

    def feed(self, data: bytes, *, end: bool = False) -> None:
        """Give it input; `end` lets it see the end of it."""
        with self._guest._watching():
            self._guest.channel.feed(self._job, data)
            if end:
                self._guest.channel.end_input(self._job)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to it and its children."""
        with self._guest._watching():
            self._guest.channel.kill(self._job, number)

    def wait(self, timeout: float = RUN_SECONDS) -> Result:
        """Its result; a command that does not end in `timeout` seconds is killed.

        Raises:
            LostGuest: the guest hangs or is gone.
        """
        timed_out = not self._ends_within(timeout)
        if timed_out:
            self.kill(signal.SIGKILL)
            self._guest.require_alive()
            self._guest._ended(self._job, _KILL_SECONDS)
        return Result(
            self._job.status if self._job.status is not None else -signal.SIGKILL,
            bytes(self._job.stdout),
            bytes(self._job.stderr),
            time.monotonic() - self._started,
            timed_out,
        )

    def _ends_within(self, timeout: float) -> bool:
        """Wait, and look now and then whether the guest is still well."""
        end = time.monotonic() + timeout
        while not self._guest._ended(self._job, min(_LOOK_SECONDS, end - time.monotonic())):
            if time.monotonic() >= end:
                return False
            self._guest.require_alive()
        return True


class Guest:
    """A guest that is up. Made by :func:`livegraft.lab.boot.boot`.

    Args:
        name: of its kernel, for errors.
        qemu: the process.
        channel: the way to its agent.
        modules: the kernel's modules.
        inserted: names of those that are in the kernel already.
        boot_seconds: from the start of QEMU to the agent's report.
    """

    def __init__(
        self,
        name: str,
        qemu: Qemu,
        channel: Channel,
        modules: ModuleFolder,
        inserted: Iterable[str],
        boot_seconds: float,
    ) -> None:
        self.name = name
        self.channel = channel
        self.boot_seconds = boot_seconds
        self._qemu = qemu
        self._modules = modules
        self._inserted = set(inserted)

    def start(self, argv: Sequence[str | os.PathLike[str]]) -> BackgroundJob:
        """Start a command (found in PATH, working directory /root) and let it run.

        Raises:
            LostGuest: the guest is gone.
        """
        words = [os.fspath(word) for word in argv]
        with self._watching():
            return BackgroundJob(self, words, self.channel.start(words))

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        timeout: float = RUN_SECONDS,
        input: bytes | None = None,
    ) -> Result:
        """Run a command to its end.

        Args:
            argv: the command and its arguments; no shell.
            timeout: seconds after which it is killed (see :class:`Result`).
            input: its standard input; empty by default.

        Raises:
            LostGuest: the guest hangs or is gone.
        """
        job = self.start(argv)
        job.feed(input or b"", end=True)
        return job.wait(timeout)

    def check(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        timeout: float = RUN_SECONDS,
        input: bytes | None = None,
    ) -> Result:
        """As :meth:`run`, for a command that has to succeed.

        Raises:
            GuestCommandFailed: its status is not 0.
            LostGuest: the guest hangs or is gone.
        """
        result = self.run(argv, timeout=timeout, input=input)
        if result.status != 0:
            raise GuestCommandFailed([os.fspath(word) for word in argv], result)
        return result

    def shell(self, script: str, *, timeout: float = RUN_SECONDS) -> Result:
        """Run lines of shell (busybox sh, stopping at the first that fails)."""
        return self.run(["sh", "-ec", script], timeout=timeout)

    def python(
        self, code: str, *arguments: str, timeout: float = RUN_SECONDS, input: bytes | None = None
    ) -> Result:
        """Run Python code in an image that has Python; `arguments` are its ``sys.argv[1:]``."""
        return self.run(["python3", "-c", code, *arguments], timeout=timeout, input=input)

    def put(self, path: str, data: bytes | Path, mode: int = 0o644) -> None:
        """Write a file, and the folders above it.

        Raises:
            GuestCommandFailed: the guest cannot write it.
        """
        content = data.read_bytes() if isinstance(data, Path) else data
        self.check(["/init", "put", f"{mode:o}", path], input=content)

    def get(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            GuestCommandFailed: there is none, or it cannot be read.
        """
        return self.check(["/init", "get", path]).stdout

    def modprobe(self, name: str, parameters: str = "") -> None:
        """Insert a module of the distribution, and what it needs, in this order.

        Raises:
            UsageError: the kernel has no such module.
            GuestCommandFailed: the kernel does not take it.
        """
        for each in self.lacking(name):
            own = parameters if each == canonical(name) else ""
            self.insert(each, self._modules.content(each), own)

    def lacking(self, name: str) -> list[str]:
        """A module and what it needs, in this order; what is in the kernel already left out.

        Raises:
            UsageError: the kernel has no such module.
        """
        return [each for each in self._modules.closure([name]) if each not in self._inserted]

    def insert(self, name: str, content: bytes, parameters: str = "") -> None:
        """Insert a module; what it needs has to be there.

        Raises:
            GuestCommandFailed: the kernel does not take it.
        """
        path = f"/lib/modules/{self._modules.folder.name}/kernel/{name}.ko"
        self.put(path, content)
        self.check(["/init", "insert", path, parameters])
        self._inserted.add(name)

    def kernel_log(self) -> list[KernelMessage]:
        """What is in the kernel's log."""
        return list(parse_log(self.get("/dev/kmsg").decode("utf-8", "replace")))

    def console(self) -> str:
        """What the kernel has written on its console; also when the guest is gone."""
        return self._qemu.console()

    def require_alive(self) -> None:
        """Make sure that the guest still does what it is told.

        Raises:
            LostGuest: it does not.
        """
        with self._watching():
            alive = self.channel.answers(_ALIVE_SECONDS)
        if not alive:
            self._lost(f"it hangs: no answer within {_ALIVE_SECONDS:g} s")

    def ended(self, seconds: float) -> bool:
        """Whether its machine goes down by itself within `seconds`."""
        return self._qemu.wait(seconds) is not None

    def end(self) -> None:
        """End it at once. Its console can still be read."""
        self._qemu.end()
        self.channel.close()

    def _ended(self, job: Job, seconds: float) -> bool:
        if self.channel.wait(job, seconds):
            return True
        if not self.channel.connected:
            self._lost("it ended")
        return False

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except Disconnected:
            self._lost("it hangs: it does not take any input")

    def _lost(self, otherwise: str) -> NoReturn:
        raise lost(self.name, self._qemu, otherwise)


def lost(name: str, qemu: Qemu, otherwise: str) -> LostGuest:
    """The error for a guest that is gone: why, as far as its console and QEMU tell.

    Args:
        name: the guest's kernel.
        qemu: its process.
        otherwise: the reason if neither tells.
    """
    status = qemu.wait(1.0)
    console = qemu.console()
    panic = _PANIC.search(console)
    end = _around(console, panic.start() if panic else len(console))
    if panic:
        return LostGuest(name, panic[0].strip(), end, "its console says more, around that line")
    if status is not None:
        said = qemu.messages().strip().splitlines()
        why = said[-1] if said else "the machine was reset or switched off"
        return LostGuest(name, f"{otherwise}: QEMU ended with status {status}: {why}", end)
    return LostGuest(
        name, otherwise, end, "try again when this machine is less busy, or allow more time"
    )


def _around(console: str, place: int) -> str:
    before, after = console[:place].splitlines(True), console[place:].splitlines(True)
    return "".join([*before[-_LINES_BEFORE:], *after[:_LINES_AFTER]])


def parse_log(text: str) -> Iterator[KernelMessage]:
    """The records of /dev/kmsg (Documentation/ABI/testing/dev-kmsg), as read one after the other.

    Lines that begin with a space belong to the record before and hold device properties.
    """
    for line in text.split("\n"):
        fields, separator, message = line.partition(";")
        parts = fields.split(",")
        if separator and not line.startswith(" ") and len(parts) >= 4 and parts[0].isdigit():
            level, sequence, microseconds = map(int, parts[:3])
            yield KernelMessage(microseconds / 1e6, level & 7, _unescaped(message), sequence)


def _unescaped(message: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), message)
