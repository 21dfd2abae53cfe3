# SPDX-License-Identifier: GPL-2.0-or-later
"""A shell in a guest, for people: to see a bug, and to see a patch cure it.

``modprobe`` in the guest asks this side for the distribution's modules: a FIFO carries the
question, and another one the answer.
"""

from __future__ import annotations

import os
import shlex
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from livegraft.errors import LivegraftError
from livegraft.lab.guest import BackgroundJob, Guest

QUESTIONS = "/run/modprobe"
SHARED = "/mnt/shared"
SHARED_TAG = "shared"
SHARING = ("9p", "9pnet_virtio")
"""Modules for a shared folder; the cloud flavour does not have them."""

MODPROBE = f"""\
#!/bin/sh
# Asks the host for the kernel's own modules. The kernel calls it with -q -- ALIAS.
status=0
for name; do
	case $name in -*) continue ;; esac
	mkfifo {QUESTIONS}.$$
	echo "$$ $name" > {QUESTIONS}
	read -r said < {QUESTIONS}.$$
	rm -f {QUESTIONS}.$$
	[ "$said" = done ] || {{ echo "modprobe: $said" >&2; status=1; }}
done
exit $status
"""

LIVEGRAFT = '#!/bin/sh\nexec python3 -m livegraft.runtime "$@"\n'

PREPARE = f"""\
mkfifo {QUESTIONS}
chmod 755 /usr/local/sbin/modprobe /usr/local/bin/livegraft
echo /usr/local/sbin/modprobe > /proc/sys/kernel/modprobe
"""

FILES: dict[str, bytes | Path] = {
    "/usr/local/sbin/modprobe": MODPROBE.encode(),
    "/usr/local/bin/livegraft": LIVEGRAFT.encode(),
}
"""What the guest needs for it."""

SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

LOOK_SECONDS = 0.02
ALIAS = "fs-"
"""How the kernel asks for a file system's module."""


def prepare(guest: Guest, shared: Path | None) -> None:
    """Make a guest ready that was booted with :data:`FILES`.

    Args:
        guest: the guest.
        shared: the folder that it shares, if it was booted with one.

    Raises:
        LivegraftError: the guest cannot do it.
    """
    done = guest.shell(PREPARE)
    if done.status != 0:
        raise LivegraftError(guest.name, f"the guest is not ready: {done.stderr.decode()}")
    if shared is not None:
        mount = f"mkdir -p {SHARED}; mount -t 9p -o trans=virtio {SHARED_TAG} {SHARED}"
        done = guest.shell(mount)
        if done.status != 0:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise LivegraftError(str(shared), f"the guest does not mount it: {said}")


def converse(guest: Guest, source: IO[bytes], target: IO[bytes]) -> int:
    """Let a person work in a guest until the shell ends.

    Args:
        guest: prepared (:func:`prepare`).
        source: what is typed; if it is no terminal, lines of a script.
        target: where it shows.

    Returns:
        the shell's exit status.

    Raises:
        LostGuest: the guest hung or ended.
    """
    terminal = source if source.isatty() else None
    job = guest.start(_words(terminal))
    with _modules_on_demand(guest), _raw(terminal):
        threading.Thread(target=_pass_on, args=(source, job), daemon=True).start()
        shown = 0
        while True:
            running = job.running
            printed = job.output()
            if len(printed) > shown:
                target.write(printed[shown:])
                target.flush()
                shown = len(printed)
            if not running:
                break
            threading.Event().wait(LOOK_SECONDS)
    result = job.wait()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.flush()
    return result.status


def _words(terminal: IO[bytes] | None) -> Sequence[str]:
    """The command: with a terminal of its own for a person, plain for a script."""
    if terminal is None:
        return ["sh"]
    size = os.get_terminal_size(terminal.fileno())
    name = shlex.quote(os.environ.get("TERM", "linux"))
    first = f"export TERM={name}; stty rows {size.lines} cols {size.columns}; exec sh -i"
    return ["python3", "-c", SPAWN, "sh", "-c", first]


def _pass_on(source: IO[bytes], job: BackgroundJob) -> None:
    """Give the shell what is typed, as it is typed."""
    with suppress(LivegraftError, OSError, ValueError):
        while data := os.read(source.fileno(), 4096):
            job.feed(data)
        job.feed(b"", end=True)


@contextmanager
def _raw(source: IO[bytes] | None) -> Iterator[None]:
    """A terminal that passes on every key, Ctrl-C among them."""
    if source is None:
        yield
        return
    before = termios.tcgetattr(source)
    try:
        tty.setraw(source.fileno())
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


@contextmanager
def _modules_on_demand(guest: Guest) -> Iterator[None]:
    over = threading.Event()
    asking = guest.start(["sh", "-c", f"while :; do cat {QUESTIONS}; done"])

    def answer() -> None:
        answered = 0
        with suppress(LivegraftError):
            while not over.wait(LOOK_SECONDS):
                lines = asking.output().decode("utf-8", "replace").split("\n")[:-1]
                for line in lines[answered:]:
                    number, _, name = line.partition(" ")
                    if number.isdigit():
                        _reply(guest, number, _insert(guest, name))
                answered = len(lines)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(LivegraftError):
            asking.kill()


def _insert(guest: Guest, name: str) -> str:
    """Bring a module into the guest; what to tell whoever asked."""
    try:
        guest.modprobe(name.removeprefix(ALIAS))
    except LivegraftError as error:
        return str(error).replace("\n", " ")
    return "done"


def _reply(guest: Guest, number: str, said: str) -> None:
    guest.run(["sh", "-c", f'echo "$1" > {QUESTIONS}.{number}', "sh", said])
