# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of two kernel releases is the older one, by their names."""

from __future__ import annotations

import re

_FLAVOUR = r"(?:-(?!rc\d)[A-Za-z]\w*)+$"
"""``-amd64``, ``-cloud-amd64``: for which machines; it says nothing of what is older."""

_CANDIDATE = r"-(rc\d)"
"""6.7-rc3 comes before 6.7."""

_Part = int | tuple[int, ...]


def is_older(release: str, than: str) -> bool:
    """Whether a release comes before another one: 6.1.0-9, 6.1.0-55, 6.12.9+deb12, 6.12.117+deb12.

    Numbers count as numbers, and ``~`` comes before everything, the end too, as in deb-version(7).

    Args:
        release: as uname(2) gives it, ``6.1.0-55-amd64``.
        than: the other one. Those that differ in their flavour alone are equally old.
    """
    return _key(release) < _key(than)


def _key(release: str) -> list[_Part]:
    """Text and numbers by turns: what is compared with each other is of one kind."""
    version = re.sub(_CANDIDATE, r"~\1", re.sub(_FLAVOUR, "", release))
    parts = re.split(r"([0-9]+)", version)
    return [int(each) if number % 2 else _order(each) for number, each in enumerate(parts)]


def _order(text: str) -> tuple[int, ...]:
    return (*(-1 if each == "~" else ord(each) for each in text), 0)
