# SPDX-License-Identifier: GPL-2.0-or-later
"""What others call a fix: CVE ids, and the upstream commits that it was taken from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from livegraft.errors import UsageError

MOST = 100
"""CVE ids of one fix: a loaded module tells them in one page of sysfs (4,096 bytes)."""

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
"""https://www.cve.org/About/Process, "CVE ID": four digits or more after the year."""

_COMMIT = re.compile(r"[0-9a-f]{12,40}")
"""As kernel people cite commits (Documentation/process/submitting-patches.rst), or in full."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """What a fix is known by; both are in a fixed order, each once.

    Args:
        cves: CVE ids.
        upstream: commits, hexadecimal.
    """

    cves: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()

    @classmethod
    def parse(cls, cves: Sequence[str], upstream: Sequence[str]) -> Advisory:
        """From what a user gave.

        Raises:
            UsageError: one is written as no CVE id or commit is, or there are too many.
        """
        named = tuple(sorted({each.upper() for each in cves}, key=_number))
        commits = tuple(sorted({each.lower() for each in upstream}))
        for each in named:
            if _CVE.fullmatch(each) is None:
                raise UsageError(each, "is no CVE id", "write it as CVE-2026-12345")
        for each in commits:
            if _COMMIT.fullmatch(each) is None:
                problem = "is no commit of git"
                raise UsageError(each, problem, "give 12 to 40 hexadecimal digits of its hash")
        if len(named) > MOST:
            problem = f"{len(named)} CVE ids are too many for one fix"
            raise UsageError("--fixes", problem, f"give at most {MOST}")
        return cls(named, commits)


UNNAMED = Advisory()
"""Nobody has told."""


def _number(cve: str) -> tuple[str, int, str]:
    """Their order: by year, then by number, whose digits vary."""
    return cve[:9], len(cve), cve
