# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures in files of their own, beside the patch: ``PATCH.ko.NAME.p7s``.

(``PATCH.ko.p7s``, as scripts/sign-file -d names it, is one as well.) Each is over the same bytes as
the signature at the module's end: the module without that one. So they can be made in any order,
and none undoes another.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from livegraft.errors import Untrusted
from livegraft.trust.store import NAME

SUFFIX = ".p7s"

LARGEST = 1 << 16
"""Bytes: a signature has some hundred, with all its certificates some thousand."""


def place(patch: Path, name: str) -> Path:
    """Where a signer's signature of a patch belongs."""
    return patch.with_name(f"{patch.name}.{name}{SUFFIX}")


def name_in(file: str, patch: Path) -> str:
    """The NAME in a signature's file name; "" if there is none."""
    return file.removeprefix(patch.name).removesuffix(SUFFIX).removeprefix(".")


def find(patch: Path) -> list[tuple[str, bytes]]:
    """The detached signatures of a patch: file names and contents.

    Raises:
        Untrusted: one cannot be read, or is named as none can be.
    """
    try:
        names = sorted(each.name for each in patch.parent.iterdir())
    except OSError as error:
        problem = f"cannot be searched for signatures: {error.strerror}"
        raise Untrusted(str(patch.parent), problem, "run as root") from error
    found = []
    for name in names:
        if name.startswith(f"{patch.name}.") and name.endswith(SUFFIX):
            path = patch.with_name(name)
            signer = name_in(name, patch)
            if signer and re.fullmatch(NAME, signer) is None:
                problem = "is named as no signature can be"
                raise Untrusted(repr(str(path)), problem, "remove it, or use letters and digits")
            found.append((name, _read(path)))
    return found


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    remedy = "remove it, or put the signature itself in its place"
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Untrusted(str(path), "is not a regular file", remedy)
            data = file.read(LARGEST + 1)
    except OSError as error:
        problem = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise Untrusted(str(path), problem, remedy) from error
    if len(data) > LARGEST:
        raise Untrusted(str(path), f"is longer than {LARGEST} bytes", remedy)
    return data
