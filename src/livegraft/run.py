# SPDX-License-Identifier: GPL-2.0-or-later
"""The one way to run another program.

An argument list and never a shell, an environment of its own, no standard input, output captured,
each kind of failure named, and nothing left running when the caller is interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import CommandMissing, RunFailed, RunTimedOut

log = logging.getLogger(__name__)

KEPT_VARIABLES = (
    *("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"),
    *("http_proxy", "https_proxy", "no_proxy"),
)
"""What a child inherits. The rest (MAKEFLAGS, CFLAGS, KBUILD_*, LANG) would change what it does."""

GRACE_SECONDS = 1.0
"""How long a child that is to end may take to tidy up before it is killed."""


class Completed(NamedTuple):
    """What a program printed, and the seconds that it ran."""

    stdout: str
    stderr: str
    seconds: float


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that every child gets: :data:`KEPT_VARIABLES`, the C locale, and `extra`."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"} | dict(extra or {})


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] | None = None,
    stdin: Path | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; never a shell string.
        cwd: directory to run it in.
        env: variables on top of :func:`environment`.
        timeout: seconds after which it and its children are killed.
        on_line: called with each line of standard output as it comes (for progress).
        stdin: a file for it to read; nothing by default.

    Raises:
        CommandMissing: the program is not installed.
        RunFailed: it ended with a status other than 0 or by a signal.
        RunTimedOut: it did not end in time.
    """
    words = [os.fspath(word) for word in argv]
    log.debug("run: %s", shlex.join(words))
    started = time.monotonic()
    try:
        with Path(stdin or os.devnull).open("rb") as given:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=environment(env),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise
        raise CommandMissing(words[0], "is not installed", "run 'make setup'") from error
    try:
        stdout, stderr = _communicate(process, timeout, on_line)
    except subprocess.TimeoutExpired as error:
        _kill(process)
        said = error.stderr or error.stdout or b""  # bytes, although the process speaks text
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        raise RunTimedOut(words, timeout or 0, text) from error
    except BaseException:
        _kill(process)
        raise
    if process.returncode != 0:
        raise RunFailed(words, process.returncode, stderr or stdout)
    return Completed(stdout, stderr, time.monotonic() - started)


def _communicate(
    process: subprocess.Popen[str], timeout: float | None, on_line: Callable[[str], None] | None
) -> tuple[str, str]:
    if on_line is None:
        return process.communicate(timeout=timeout)
    # A line reader needs standard error out of the way: a thread takes it, so neither pipe fills.
    import threading

    errors: list[str] = []
    assert process.stdout is not None and process.stderr is not None
    stderr = process.stderr
    reader = threading.Thread(target=lambda: errors.append(stderr.read()), daemon=True)
    reader.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        on_line(line.rstrip("\n"))
    process.wait(timeout=timeout)
    reader.join()
    return "".join(lines), "".join(errors)


def _kill(process: subprocess.Popen[str]) -> None:
    """End a child and its whole process group (it leads one of its own).

    First all are asked: compilers then remove their temporary files. The child may be gone before
    those that it has started, so the whole group is waited for.
    """
    try:
        _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + GRACE_SECONDS
        while (process.poll() is None or _has_group(process)) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _has_group(process: subprocess.Popen[str]) -> bool:
    """Whether any process of its group still runs.

    One that has ended may stay listed for long where process 1 of a container reaps nobody.
    """
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # proc(5): pid (comm) state ppid pgrp ...; comm may hold anything.
            state, _, group = path.read_text("latin-1").rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == process.pid and state not in "ZX":
            return True
    return False


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
