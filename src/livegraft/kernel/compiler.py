# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiler that built a kernel, found on this machine."""

from __future__ import annotations

import re
from functools import lru_cache

from livegraft.errors import CommandMissing, WrongCompiler
from livegraft.kernel.config import Config
from livegraft.run import run

_TRIPLET = "x86_64-linux-gnu-"


def find_compiler(release: str, config: Config) -> str:
    """The name of the compiler that built the kernel (``gcc-12``), as ``CC`` for kbuild.

    Debian's 6.1 calls it ``gcc-12`` and its 6.12 ``x86_64-linux-gnu-gcc-12``: the same program.

    Args:
        release: the kernel, for the error.
        config: its configuration; ``CONFIG_CC_VERSION_TEXT`` is the first line of
            ``$(CC) --version``.

    Raises:
        WrongCompiler: it is not installed, or another version of it is.
    """
    text = config.get("CONFIG_CC_VERSION_TEXT", "")
    name, _, version = text.partition(" ")
    if not version:
        raise WrongCompiler(release, f"its configuration names no compiler: {text!r}")
    bare = name.removeprefix(_TRIPLET)
    found: dict[str, str] = {}
    for candidate in dict.fromkeys((name, bare, _TRIPLET + bare)):
        here = version_text(candidate)
        if here is None:
            continue
        if here.partition(" ")[2] == version:
            return candidate
        found[candidate] = here
    here = next(iter(found.values()), f"no {bare}")
    problem = f"was built by {bare} {version}, and here is {here}"
    raise WrongCompiler(release, problem, _remedy(bare, version))


def version_text(command: str) -> str | None:
    """The first line of ``COMMAND --version``, or None if there is no such command."""
    try:
        return _version_text(command)
    except CommandMissing:
        return None


@lru_cache(maxsize=16)
def _version_text(command: str) -> str:
    return run([command, "--version"]).stdout.partition("\n")[0].strip()


def _remedy(package: str, version: str) -> str:
    """Debian's package of the compiler: ``(Debian 12.2.0-14+deb12u1) 12.2.0`` holds its version."""
    match = re.search(r"\(Debian ([^)\s]+)\)", version)
    exact = f"{package}={match[1]}" if match else package
    return f"apt-get install {exact}"
