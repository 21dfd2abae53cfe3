# SPDX-License-Identifier: GPL-2.0-or-later
"""How a message names some of many."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 3
"""How many of a kind a message names."""


def few(names: Sequence[str], what: str = "", separator: str = ", ") -> str:
    """The first few of many `what`, and how many more there are."""
    rest = len(names) - FEW
    more = [f"and {rest} more {what}".rstrip()] if rest > 0 else []
    return separator.join(names[:FEW]) + "".join(f" {each}" for each in more)
