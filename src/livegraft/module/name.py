# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of live patch modules."""

from __future__ import annotations

import re
from pathlib import Path

from livegraft.errors import UsageError

LONGEST = 55
"""Characters of a module's name: ``MODULE_NAME_LEN`` of include/linux/module.h, less its NUL."""

PREFIX = "livegraft_"
OWN = "lg_"
"""Object files of the glue and of the pieces begin so: a module must not."""

_VALID = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Refuse a name that no module of ours can have.

    Raises:
        UsageError: it is too long, has other characters than a-z, 0-9 and _, or begins with lg_.
    """
    remedy = f"take a-z, 0-9 and _, at most {LONGEST} of them, and no {OWN} in front"
    if not _VALID.fullmatch(name) or len(name) > LONGEST or name.startswith(OWN):
        raise UsageError(name or "the module's name", "cannot be a live patch's name", remedy)


def module_name(file: str) -> str:
    """A valid name made from a file's: ``CVE-2026-1.ko`` -> ``livegraft_cve_2026_1``."""
    slug = re.sub(r"[^a-z0-9]+", "_", Path(file).stem.lower()).strip("_") or "fix"
    name = slug if slug.startswith(PREFIX) else PREFIX + slug
    return name[:LONGEST].rstrip("_")
