# SPDX-License-Identifier: GPL-2.0-or-later
"""The program ``openssl``, which does all cryptography."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from livegraft.errors import CommandMissing, Untrusted

PROGRAM = "/usr/bin/openssl"

ROOTS_PLACE = "/run"
"""Where root's files go: a variable (TMPDIR) might name a folder that others can change."""

SECONDS = 60.0
"""It needs a hundredth of a second, and a token that is asked for a signature some more."""


def openssl(
    *arguments: str | os.PathLike[str], variables: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Run it: what it writes to standard output, and to standard error.

    Args:
        arguments: its own.
        variables: on top of :func:`livegraft.run.environment`, which leaves out ``OPENSSL_CONF``
            and whatever else would change what it does.

    Raises:
        RunFailed: it did not end with status 0.
        Untrusted: it is not installed.
    """
    from livegraft.run import run  # seldom needed, and start-up time counts

    try:
        done = run([PROGRAM, *arguments], env=variables, timeout=SECONDS)
    except CommandMissing as error:
        raise Untrusted(
            PROGRAM, "is not installed, and it checks all signatures", "apt-get install openssl"
        ) from error
    return done.stdout, done.stderr


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that nobody else can look into or write (mode 0700), gone afterwards.

    Raises:
        Untrusted: there is no place for it, or for what is written into it.
    """
    import tempfile  # seldom needed, and start-up time counts

    above = ROOTS_PLACE if os.geteuid() == 0 else None
    try:
        with tempfile.TemporaryDirectory(prefix="livegraft-", dir=above) as folder:
            yield Path(folder)
    except OSError as error:
        place = str(error.filename or above or tempfile.gettempdir())
        problem = f"openssl's files cannot be written: {error.strerror}"
        raise Untrusted(place, problem, "make room there") from error
